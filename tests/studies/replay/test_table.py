"""The table that ships with the package, and how one is made."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from search_spaces import ReplayTrial, load_space, parse_space
from search_spaces.enumeration import every_architecture
from studies.data import TokenData
from studies.replay.build import Build, seed_spread
from studies.replay.table import FILE, SPACE, Table
from studies.stats.seeds import derive_seed
from studies.study.rules import RULES, changed_rules
from studies.training.loop import train
from studies.workers.proxy import train_settings
from surgery.architecture.costs import cost
from surgery.config.problems import UserError
from surgery.model import HybridLM

TIED = RULES[0]
MINIATURE = """
backbone: {vocab_size: 512, dim: 16, num_layers: 1, num_heads: 2, ffn_dim: 32, tie_embeddings: true}
search: {backbone.ffn_dim: {choice: [16, 24, 32]}, loop.count: {range: [1, 2]}}
constraints: [params <= 10700]
objectives: {val_loss: min, params: min, decode_flops@64: min}
baselines: []
proxy: {tokens: 2048, seq_len: 32, batch_tokens: 512, rungs: [0.5, 1.0], lr: 1e-2, eval_tokens: 1024}
data: {corpus: builtin, tokenizer: "bpe:512"}
"""


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.open()


def test_every_architecture_that_a_sampler_may_suggest_is_in_it(table: Table) -> None:
    space = load_space(SPACE)
    assert table.space.digest == space.digest
    allowed = {arch.hash for _, arch in every_architecture(space) if not space.violations(arch)}
    assert allowed == set(table.entries)
    assert len(allowed) >= 256


def test_entries_are_what_their_parameters_give(table: Table) -> None:
    for entry in table.entries.values():
        architecture = table.space.sample(ReplayTrial(entry.params))
        assert (architecture.hash, architecture.line) == (entry.hash, entry.line)
        assert entry.costs.keys() >= {"params", "decode_flops@1024"}
        assert entry.costs == {name: cost(architecture, name) for name in entry.costs}


def test_at_least_six_fields_are_only_drawn_where_others_make_them_matter(table: Table) -> None:
    drawn = [set(entry.params) for entry in table.entries.values()]
    sometimes = set.union(*drawn) - set.intersection(*drawn)
    assert len({name.removesuffix(".gate") for name in sometimes}) >= 6


def test_curves_fall_and_repeats_differ(table: Table) -> None:
    assert table.fractions[-1] == 1.0
    assert all(earlier < later for earlier, later in pairwise(table.fractions))
    for entry in table.entries.values():
        assert len(entry.curves) == len(entry.seconds) >= 1
        assert len(set(entry.curves)) == len(entry.curves)
        for curve in entry.curves:
            assert len(curve) == len(table.fractions)
            assert 2 * math.log(512) > curve[0] > curve[-1] > 2
    repeated = [entry for entry in table.entries.values() if len(entry.curves) >= 3]
    assert len(repeated) >= 40
    assert 0 < seed_spread(repeated) < 0.1


def test_the_front_is_the_true_one(table: Table) -> None:
    def beats(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
        return one != two and all(a <= b for a, b in zip(one, two, strict=True))

    values = {entry.hash: table.values(entry) for entry in table.entries.values()}
    expected = {name for name, point in values.items() if not any(beats(p, point) for p in values.values())}
    assert {entry.hash for entry in table.front} == expected
    assert all(len(entry.curves) >= 3 for entry in table.front)  # where it counts, noise is known


def test_it_is_a_problem_worth_solving(table: Table) -> None:
    """Early losses rank, but not perfectly; the front is neither a point nor all."""
    curves = torch.tensor([entry.curves[0] for entry in table.entries.values()], dtype=torch.float64)
    ranks = curves.argsort(0).argsort(0).double()
    spearman = torch.corrcoef(ranks.T)[:, -1]
    assert spearman[0] < 0.9
    assert spearman[table.fractions.index(0.5)] > 0.7
    assert 8 <= len(table.front) <= len(table.entries) / 3


def test_it_is_small_and_comes_back_as_it_was(table: Table, tmp_path: Path) -> None:
    assert FILE.stat().st_size < 2**20
    table.save(tmp_path / "again.json.gz")
    assert Table.open(tmp_path / "again.json.gz").entries == table.entries
    assert (tmp_path / "again.json.gz").read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08\x00"])
def test_what_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "table.json.gz").write_bytes(content)
    with pytest.raises(UserError, match="can't be read"):
        Table.open(tmp_path / "table.json.gz")
    with pytest.raises(UserError, match="can't be read"):
        Table.open(tmp_path / "nothing.json.gz")


def test_a_build_goes_on_where_it_was_killed(tokens: TokenData, tmp_path: Path) -> None:
    space = parse_space(MINIATURE, "miniature.yaml")
    runs = tmp_path / "runs.jsonl"
    build = Build(space, tokens, runs, sample=2, repeats=2)
    assert 2 <= len(build.architectures) < 6  # the constraint excludes some
    build.run(workers=1)
    whole = runs.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    assert len(lines) > len(build.architectures)

    runs.write_text("".join(lines[:2]) + lines[2][:20] + "\n", encoding="utf-8")
    again = Build(space, tokens, runs, sample=2, repeats=2)
    again.run(workers=1)
    assert again.table().entries.keys() == build.table().entries.keys()
    for name, entry in again.table().entries.items():
        assert entry.curves == build.table().entries[name].curves

    name, (_, architecture) = next(iter(build.architectures.items()))
    seed = derive_seed(0, name, 1)
    torch.manual_seed(seed)
    result = train(
        HybridLM(architecture), tokens, train_settings(space, 0), seed=seed, device=torch.device("cpu")
    )
    assert build.table().entries[name].curves[1][-1] == round(result.val_loss, 5)
    assert not changed_rules(space, build.table().about["rules"])


def test_runs_of_two_rules_are_not_mixed(tokens: TokenData, tmp_path: Path) -> None:
    space = parse_space(MINIATURE, "miniature.yaml")
    runs = tmp_path / "runs.jsonl"
    for rules in (
        {},
        {"rules": {TIED.name: "another"}},
    ):  # of a version before rules were recorded, and a later
        runs.write_text(json.dumps({"hash": "0", "repeat": 0, "line": "F", **rules}) + "\n", encoding="utf-8")
        with pytest.raises(UserError, match=f"{TIED.name}: .* -> {TIED.now}"):
            Build(space, tokens, runs, sample=2, repeats=2).run(workers=1)


@pytest.mark.slow
def test_training_again_gives_the_curve(table: Table, tmp_path: Path) -> None:
    from studies.data import open_or_prepare

    data = open_or_prepare(table.space.data.corpus, table.space.data.tokenizer)
    assert data.content_hash == table.about["data_hash"]
    entry = table.front[0]
    seed = derive_seed(table.about["seed"], entry.hash, 0)
    torch.manual_seed(seed)
    architecture = table.space.sample(ReplayTrial(entry.params))
    settings = replace(train_settings(table.space, table.about["seed"]), eval_at=(1.0,))
    model = HybridLM(architecture)
    if table.about.get("rules", {}).get(TIED.name, TIED.before) == TIED.before:
        model.norm.weight.data.fill_(1)  # the table that ships is older than today's start
    result = train(model, data, settings, seed=seed, device=torch.device("cpu"))
    assert result.val_loss == pytest.approx(entry.curves[0][-1], abs=0.01)  # another machine, other bits
