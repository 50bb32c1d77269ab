"""Made-up tables with a known structure, for what no small training shows.

`python -m studies.replay.synthetic` writes them again. Costs are exact; losses are drawn. The final loss
falls with the logarithms of size and decode FLOPs, every value of every field adds an effect, pairs of them
add interactions, and the seed adds noise. A curve falls to it as a power of the tokens. Where architectures
that end better fall later, the order at early rungs misleads.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import load_space
from search_spaces.enumeration import every_architecture
from studies.replay.table import Entry, Table
from studies.stats.seeds import derive_seed
from studies.surrogates.observations import Floats
from studies.workers.proxy import metrics_of

FOLDER = Path(__file__).with_name("tables")
POWER = 0.5  # of the tokens, by which losses fall
HEIGHT = 0.6  # nats/token that a loss falls between a quarter of the tokens and all


@dataclass(frozen=True)
class Structure:
    """Parts of the losses of a table, as standard deviations over its architectures in nats/token.

    Attributes:
        space: file of the space, in FOLDER.
        size: effect of size and decode FLOPs.
        single: effects of single fields.
        pairs: interactions of two fields.
        noise: of the seed, on the final loss; half of its variance is common to a whole curve.
        late: how much the logarithm of the height of a curve grows, per standard deviation, with how good
            the architecture is at the end; above some 0.15, curves cross.
        own: standard deviation of the logarithm of the height that nothing explains.
    """

    space: str
    size: float = 0.2
    single: float = 0.1
    pairs: float = 0.0
    noise: float = 0.01
    late: float = 0.0
    own: float = 0.05


STRUCTURES = {
    "additive": Structure("mixed.yaml", single=0.12, pairs=0.06, noise=0.04),
    "late": Structure("mixed.yaml", single=0.12, pairs=0.04, late=0.2, own=0.12),
    "crossing": Structure("replaced.yaml", single=0.1, pairs=0.08, noise=0.02, late=0.2, own=0.2),
}


def make(name: str) -> Table:
    """Return the made-up table of this name."""
    structure = STRUCTURES[name]
    space = load_space(str(FOLDER / structure.space))
    rng = np.random.default_rng(derive_seed(0, "synthetic", name))
    every = [(params, arch) for params, arch in every_architecture(space) if not space.violations(arch)]
    random.Random(derive_seed(0, "order", name)).shuffle(every)
    costs = [metrics_of(space, arch, [{}]) for _, arch in every]
    names = [item.name for item in space.objectives if item.metric.is_cost]
    logs = np.log([[item[name] for name in names] for item in costs])
    ends = 4.0 + _ends([params for params, _ in every], logs, structure, rng)
    curves = _curves(ends, np.array(space.proxy.rungs), structure, rng)
    entries = [
        Entry(arch.hash, arch.line, params, cost, (tuple(curve),), (0.0,))
        for (params, arch), cost, curve in zip(every, costs, curves.tolist(), strict=True)
    ]
    about = {"made_up": name, **vars(structure)}
    return Table(space, space.proxy.rungs, {item.hash: item for item in entries}, about)


def _ends(
    params: Sequence[dict[str, Any]], logs: Floats, structure: Structure, rng: np.random.Generator
) -> Floats:
    """Return (n,) expected final losses, around 0."""
    fields = sorted({name for item in params for name in item})
    columns = {name: [repr(item.get(name)) for item in params] for name in fields}
    single = sum((_effects(columns[name], rng) for name in fields), np.zeros(len(params)))
    pairs = sum(
        (
            _effects([one + other for one, other in zip(columns[first], columns[second], strict=True)], rng)
            for first, second in combinations(fields, 2)
        ),
        np.zeros(len(params)),
    )
    parts = ((structure.size, -logs.sum(axis=1)), (structure.single, single), (structure.pairs, pairs))
    return np.asarray(np.stack([sd * _standard(values) for sd, values in parts]).sum(axis=0))


def _curves(ends: Floats, shares: Floats, structure: Structure, rng: np.random.Generator) -> Floats:
    """Return (n, shares) losses of one run of each architecture."""
    own = structure.own * rng.standard_normal(len(ends)) - structure.late * _standard(ends)
    heights = HEIGHT / (0.25**-POWER - 1) * np.exp(own)
    noise = rng.standard_normal((len(ends), 1)) + rng.standard_normal((len(ends), len(shares)))
    falls = heights[:, None] * (shares**-POWER - 1)
    return np.asarray(np.round(ends[:, None] + falls + structure.noise / np.sqrt(2) * noise, 4))


def _effects(values: Sequence[str], rng: np.random.Generator) -> Floats:
    """Return (n,) a normal effect of each value."""
    known = {value: rng.standard_normal() for value in dict.fromkeys(sorted(values))}
    return np.array([known[value] for value in values])


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))


def main() -> None:
    """Write made-up tables from the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.replay.synthetic", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(STRUCTURES), help=f"of {', '.join(STRUCTURES)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the tables")
    given = parser.parse_args()
    for name in given.names:
        table = make(name)
        table.save(given.out / f"{name}.json.gz")
        print(
            f"{given.out / name}.json.gz: {len(table.entries)} architectures, {len(table.front)} on the front"
        )


if __name__ == "__main__":
    main()
