"""A study over a pretrained model as a search leaves it, made by hand: no model is loaded."""

from __future__ import annotations

from pathlib import Path

import optuna

from search_spaces.catalog import load_space
from search_spaces.pretrained import ModelSection
from search_spaces.replacements import KEEP
from studies.library.scores import Score, Scores, write_scores
from studies.storage.attributes import ARCHITECTURE, BASELINE, HASH, LINE, METRICS, SUGGESTED_BY
from studies.study import Study
from studies.study.settings import MILP, StudySettings
from surgery.architecture import Architecture
from surgery.architecture.costs import cost

CACHE = "cache_bytes@1024"
W32, W8 = "W window=32 sinks=4", "W window=8 sinks=4"
MODEL = Architecture.from_dict({
    "backbone": {
        "vocab_size": 512, "dim": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 128,
    },
})  # fmt: skip
SPACE = f"""
search:
  layers.keep: "0"
  layers.mixer: {{choice: [keep, W: {{window: 32, sinks: 4}}, W: {{window: 8, sinks: 4}}, none]}}
  layers.ffn: {{choice: [keep, dim: 50%, none]}}
objectives: {{kl: min, {CACHE}: min}}
"""
# a trial's choice of labels by part's name, and the name of a design to beat
TRIALS: tuple[tuple[dict[str, str], str | None], ...] = (
    ({}, "original"),
    ({"layer.2.mixer": W32, "layer.3.mixer": W32}, f"lowest {W32} 75%"),
    ({"layer.1.mixer": W8, "layer.2.mixer": W32, "layer.3.ffn": "dim=64"}, None),
    ({"layer.1.mixer": "none", "layer.2.mixer": "none", "layer.3.mixer": W8, "layer.1.ffn": "none"}, None),
)


def kl_of(layer: int, label: str) -> float:
    """The score that a replacement has in the study."""
    return {W32: 0.002, W8: 0.015, "none": 1.25, "dim=64": 0.125}[label] * layer


def make_study(runs: Path, *, scored: bool = True) -> Study:
    """Make the study `hybrid` in `runs`, its measured KL 1.5 times the predicted."""
    runs.mkdir(exist_ok=True)
    (runs / "hybrid.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(runs / "hybrid.yaml", ModelSection("smol", "0123", MODEL))
    study = Study.create("hybrid", space, StudySettings(sampler=MILP), runs)
    assert space.replacements is not None
    for changes, name in TRIALS:
        params = {part.name: changes.get(part.name, KEEP) for part in space.replacements.parts}
        architecture = space.replacements.architecture(params)
        kl = 1.5 * sum(kl_of(int(part.split(".")[1]), label) for part, label in changes.items())
        metrics = {"kl": kl, CACHE: float(cost(architecture, CACHE))}
        attributes = {
            ARCHITECTURE: architecture.to_dict(), LINE: architecture.line, HASH: architecture.hash,
            METRICS: {**metrics, "params": float(cost(architecture, "params"))},
            SUGGESTED_BY: MILP, **({BASELINE: name} if name else {}),
        }  # fmt: skip
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            part.name: optuna.distributions.CategoricalDistribution(part.labels)
            for part in space.replacements.parts
        }
        study.inner.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=distributions,
                values=list(metrics.values()),
                user_attrs=attributes,
            )
        )
    if scored:
        kls = {
            (part.name, label): Score(kl_of(part.layer, label), kl_of(part.layer, label) / 10)
            if label != KEEP
            else Score(0.0, 0.0)
            for part in space.replacements.parts
            for label in part.labels
        }
        write_scores(study.folder, Scores(kls))
    return study
