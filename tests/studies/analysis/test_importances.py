"""Importances and dead knobs on trials whose losses are known, p-values against all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from studies.analysis.dead_knobs import CANNOT, NOT_SEEN, ZERO, dead_knobs, gradient_distance
from studies.analysis.importances import FEWEST, Importances, grouped, importances, shuffle_test
from studies.data import TokenData
from studies.storage.attributes import DUPLICATE
from studies.study import Study
from surgery.architecture import Architecture
from surgery.config.problems import UserError
from tests.studies.conftest import SPACE, MakeStudy
from tests.studies.filled import fill


def by_rank(params: dict[str, object], rng: np.random.Generator) -> float:
    """Only loops and the rank matter."""
    rank = params.get("hdpl.rank", 16)
    assert isinstance(rank, int)
    loops = params["loop.count"]
    assert isinstance(loops, int)
    return 5.0 - 0.1 * loops - 0.03 * rank + 0.03 * float(rng.normal())


NO_BASELINES = SPACE.replace("baselines: [dense, hdpl-paper, lt2-looped]", "baselines: []")


@pytest.fixture
def actual(make_study: MakeStudy) -> tuple[Study, Importances]:
    study = fill(make_study(text=NO_BASELINES), 80, by_rank)
    return study, importances(study)


def test_what_matters_is_seen_and_what_does_not_is_named(actual: tuple[Study, Importances]) -> None:
    study, result = actual
    fields = {field.name: field for field in result.fields}
    assert set(fields) >= {"hdpl.rank", "hdpl.blocks", "hdpl.kl_weight", "loop.count", "hdpl.projections.q"}
    for of in ("front", "loss"):
        assert sum(getattr(field, of) for field in result.fields) == pytest.approx(1)
    for name in ("hdpl.rank", "loop.count"):
        p = fields[name].p
        assert p is not None
        assert p <= 0.01
        assert fields[name].changes_costs
    assert fields["loop.count"].spread == pytest.approx(0.2, abs=0.08)
    assert max(fields.values(), key=lambda field: field.loss).name in ("loop.count", "hdpl.rank")
    weight = fields["hdpl.kl_weight"]
    assert weight.changes_architecture
    assert not weight.changes_costs
    assert weight.trials < 80  # conditional: some trials have no HDPL
    assert result.trials == 80
    named = {knob.field: knob for knob in dead_knobs(study, result, None)}
    assert "loop.count" not in named
    assert "hdpl.rank" not in named
    assert named["hdpl.kl_weight"].kind == NOT_SEEN
    assert "nor does it change a cost" in named["hdpl.kl_weight"].evidence
    assert f"n = {weight.trials}" in named["hdpl.kl_weight"].evidence
    assert str(named["hdpl.kl_weight"]).startswith("hdpl.kl_weight: no effect seen on val_loss (p = ")


def test_duplicates_do_not_count(actual: tuple[Study, Importances]) -> None:
    study, result = actual
    trial = study.inner.get_trials()[0]
    copy = optuna.create_trial(
        state=TrialState.COMPLETE, values=trial.values, params=trial.params,
        distributions=trial.distributions, user_attrs={**trial.user_attrs, DUPLICATE: 0},
    )  # fmt: skip
    for _ in range(30):
        study.inner.add_trial(copy)
    assert importances(study) == result


def test_too_few_trials(make_study: MakeStudy) -> None:
    study = fill(make_study(text=NO_BASELINES), FEWEST - 1, by_rank)
    with pytest.raises(UserError, match="importances need"):
        importances(study)


def test_p_is_the_share_of_all_permutations() -> None:
    values = np.array([1.0, 2.0, 2.0, 5.0, 7.0, 9.0])
    groups = np.array([0, 0, 0, 1, 1, 2])

    def statistic(order: tuple[float, ...]) -> float:
        """H in the textbook's words: spread of the groups' mean ranks, by size."""
        ranks = {1.0: 1, 2.0: 2.5, 5.0: 4, 7.0: 5, 9.0: 6}
        rows = [
            [ranks[value] for value, at in zip(order, groups, strict=True) if at == group]
            for group in range(3)
        ]
        return sum(len(row) * (np.mean(row) - 3.5) ** 2 for row in rows)

    seen = statistic(tuple(values))
    drawn = [statistic(order) for order in permutations(values)]
    exact = np.mean([item >= seen - 1e-9 for item in drawn])
    assert shuffle_test(groups, values, seed=0, draws=4000) == pytest.approx(exact, abs=0.03)


def test_equal_losses_show_no_effect() -> None:
    assert shuffle_test(np.array([0, 0, 1, 1]), np.ones(4), seed=0) == 1


def test_noise_is_seldom_an_effect() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, size=30)
    result = [shuffle_test(groups, rng.normal(size=30), seed, draws=99) for seed in range(200)]
    assert np.mean(np.array(result) <= 0.05) <= 0.1
    assert np.mean(np.array(result) <= 0.5) == pytest.approx(0.5, abs=0.12)


def test_groups() -> None:
    assert grouped([True, False, True]).tolist() == [1, 0, 1]
    assert grouped(["b", "a", "b"]).tolist() == [1, 0, 1]
    assert np.bincount(grouped(list(np.linspace(0, 1, 20)))).tolist() == [5, 5, 5, 5]


def architecture(letters: str = "FF", window: int = 16, **options: object) -> Architecture:
    rule = {"match": ["gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 4, **options}
    return Architecture.from_dict({
        "backbone": {"vocab_size": 512, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32},
        "layout": letters,
        "mixers": {"W": {"window": window}} if "W" in letters else {},
        "projections": [rule] if options else [],
    })  # fmt: skip


def test_gradients_of_a_window_longer_than_the_text_are_the_same(tokens: TokenData) -> None:
    assert gradient_distance(architecture("WF", 32), architecture("WF", 64), tokens, 32) == pytest.approx(
        0, abs=1e-6
    )
    apart = gradient_distance(architecture("WF", 8), architecture("WF", 32), tokens, 32)
    assert apart is not None
    assert apart > 1e-3


def test_gradients_tell_a_live_weight_from_a_clamped_one(tokens: TokenData) -> None:
    """`reference` is clamped for every token at rank 64: its weight has no gradient; that of `mean` has one
    that grows with it."""
    clamped = [architecture(kl="reference", rank=64, kl_weight=weight) for weight in (1e-3, 1e-1)]
    assert gradient_distance(*clamped, tokens, 32) == 0.0
    distances = [
        gradient_distance(
            architecture(kl="mean", kl_weight=1e-9), architecture(kl="mean", kl_weight=weight), tokens, 32
        )
        for weight in (1e-3, 1e-2)
    ]
    assert distances[0] is not None
    assert distances[1] == pytest.approx(10 * distances[0], rel=1e-3)
    assert gradient_distance(architecture(), architecture(kl="mean"), tokens, 32) is None


WINDOWS = """
name: windows
backbone: {vocab_size: 512, dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 32, tie_embeddings: true}
search:
  layout: {choice: [FW, WF, WW]}
  mixers.window.window: {choice: [32, 64, 128]}
  backbone.ffn_dim: {choice: [16, 32, 48]}
objectives: {val_loss: min, params: min, decode_flops@512: min}
baselines: []
proxy: {tokens: 2048, seq_len: 32, batch_tokens: 512, rungs: [1.0]}
data: {corpus: builtin, tokenizer: "bpe:512"}
"""


def test_dead_knobs_of_a_study(make_study: MakeStudy, tokens: TokenData) -> None:
    """Windows from the sequence's length on train alike, whatever noise says of them."""

    def loss(params: dict[str, object], rng: np.random.Generator) -> float:
        return float(rng.normal())

    study = fill(make_study(text=WINDOWS), 40, loss)
    named = {knob.field: knob for knob in dead_knobs(study, importances(study), tokens)}
    assert named["mixers.window.window"].kind == ZERO
    assert "changes exact costs" in named["mixers.window.window"].evidence
    assert named["backbone.ffn_dim"].kind == NOT_SEEN  # the loss is noise here
    assert all(knob.kind != CANNOT for knob in named.values())


def test_known_dead_knobs_are_told(make_study: MakeStudy) -> None:
    text = NO_BASELINES.replace("kl: mean", "kl: reference").replace("[2, 4, 8]", "[4, 16]")
    study = fill(make_study(text=text), 20, by_rank)
    shown = [str(knob) for knob in dead_knobs(study, importances(study), None) if knob.kind == CANNOT]
    assert any("hdpl.kl_weight is idle in part of this space" in line for line in shown)
    assert any("zero gradient" in line and "of 20 trials" in line for line in shown)
