"""Training: it learns, it repeats itself bit for bit, it says when it can't."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from search_spaces import parse_space
from search_spaces.proxy import OPTIMIZERS
from studies.data import TokenData
from studies.data.tokenizers import TextTokenizer
from studies.files.curve import CURVE_POINTS, log_steps
from studies.training import loop as training
from studies.training.batches import batch_indices, check_data
from studies.training.checkpoints import load_state, save_state
from studies.training.errors import TrainingFailed
from studies.training.loop import (
    Interrupted,
    Progress,
    Rung,
    Stopped,
    TrainResult,
    train,
)
from studies.training.optimizer import EMBEDDING_RATE, make_optimizer
from studies.training.schedule import schedule
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from studies.training.validation import evaluate
from studies.workers.proxy import train_settings
from surgery.architecture import Architecture
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.studies.conftest import SPACE

CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    tokens=8192, seq_len=32, batch_tokens=512, lr=1e-2, eval_tokens=1024, eval_at=(0.25, 0.5, 1.0)
)
BACKBONE = {"vocab_size": 512, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}
HDPL = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"}


def architecture(**changes: object) -> Architecture:
    return Architecture.from_dict(
        {"backbone": BACKBONE, "projections": [HDPL], "loop": {"count": 2}, **changes}
    )


def run(
    data: TokenData, settings: TrainSettings = SETTINGS, *, seed: int = 0, **options: object
) -> TrainResult:
    torch.manual_seed(seed)
    return train(HybridLM(architecture()), data, settings, seed=seed, device=CPU, **options)  # type: ignore[arg-type]


def exact(result: TrainResult) -> tuple[float, float, float]:
    return result.val_loss, result.val_bpb, result.train_loss


def test_loss_falls_on_real_text(tokens: TokenData, tmp_path: Path) -> None:
    result = run(tokens, replace(SETTINGS, tokens=32768), curve=tmp_path / "curve.jsonl")
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    held_out = [point["val_loss"] for point in points if "val_loss" in point]
    assert points[0]["loss"] > math.log(512) - 0.5
    assert held_out == sorted(held_out, reverse=True)
    assert result.val_loss < 5.6 < points[0]["loss"]


def test_same_seed_same_bits(tokens: TokenData) -> None:
    first, again, other = run(tokens), run(tokens), run(tokens, seed=1)
    assert exact(first) == exact(again)
    assert exact(first) != exact(other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(
    tokens: TokenData, tmp_path: Path, optimizer: str
) -> None:
    """Weights, moments of the optimizer, noise of HDPL, order of the text, curve: bit for bit."""
    settings = replace(SETTINGS, optimizer=optimizer)
    whole = run(tokens, settings, curve=tmp_path / "whole.jsonl")
    rungs: list[Rung] = []

    def at_rung(rung: Rung) -> bool:
        rungs.append(rung)
        return False

    path, curve = tmp_path / "checkpoint.pt", tmp_path / "curve.jsonl"
    for stops in range(1, 3):
        with pytest.raises(Stopped):
            run(tokens, settings, curve=curve, at_rung=at_rung, checkpoint=path)
        assert len(rungs) == stops
        with curve.open("a") as file:  # a worker that continued and was killed
            file.write('{"step": 15, "tokens": 7680, "loss": 1.0}\n{"step": 16, "lo')
    result = run(tokens, settings, curve=curve, at_rung=at_rung, checkpoint=path)
    assert exact(result) == exact(whole)
    assert curve.read_text() == (tmp_path / "whole.jsonl").read_text()
    points = [json.loads(line) for line in curve.read_text().splitlines()]
    losses = [point["val_loss"] for point in points if "val_loss" in point]
    assert [list(rung.losses) for rung in rungs] == [losses[:1], losses[:2], losses]
    assert [rung.tokens for rung in rungs] == [2048, 4096, 8192]


def test_a_state_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"step": 3})

    def dies(state: object, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"step": 4})
    assert load_state(path) == {"step": 3}


def test_watching_changes_nothing(tokens: TokenData, tmp_path: Path) -> None:
    seen: list[Progress] = []
    watched = run(tokens, curve=tmp_path / "c.jsonl", on_step=seen.append, should_stop=lambda: False)
    assert exact(watched) == exact(run(tokens))
    assert [item.step for item in seen] == list(range(1, 17))
    assert seen[-1].tokens == watched.tokens == 8192


def test_fewer_evaluations_change_nothing(tokens: TokenData) -> None:
    assert exact(run(tokens)) == exact(run(tokens, replace(SETTINGS, eval_at=(1.0,))))


def test_every_architecture_sees_the_same_text(tokens: TokenData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[np.ndarray]] = []
    read = TokenData.batch

    def batch(self: TokenData, indices: np.ndarray, seq_len: int, split: str = "train") -> np.ndarray:
        rows = read(self, indices, seq_len, split)  # type: ignore[arg-type]
        if split == "train":
            seen[-1].append(rows)
        return rows

    monkeypatch.setattr(TokenData, "batch", batch)
    for seed, changes in ((0, {"loop": {"count": 1}}), (7, {"projections": []})):
        seen.append([])
        torch.manual_seed(seed)
        train(HybridLM(architecture(**changes)), tokens, SETTINGS, seed=seed, device=CPU)
    assert np.array_equal(np.stack(seen[0]), np.stack(seen[1]))


def test_order_takes_every_window_once_an_epoch() -> None:
    settings = replace(SETTINGS, seq_len=32, batch_tokens=96)
    batches = batch_indices(10, settings)
    drawn = np.concatenate([next(batches) for _ in range(10)])
    epochs = drawn.reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    other = next(batch_indices(10, replace(settings, order_seed=1)))
    assert not np.array_equal(drawn[:3], other)


@pytest.mark.parametrize("warmup", [0.1, 512 * 20])
def test_schedule_rises_then_falls_to_its_end(warmup: float) -> None:
    settings = replace(SETTINGS, tokens=512 * 200, warmup=warmup, final_lr=0.2)
    rates = [schedule(step, settings) for step in range(1, settings.steps + 1)]
    assert rates[0] == 1 / 20
    assert rates[19] == 1.0
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert rates[-1] == pytest.approx(0.2)
    middle = 20 + 90
    assert rates[middle - 1] == pytest.approx(0.6)  # half of the cosine, between 1 and 0.2


def test_a_single_step_trains_at_full_rate(tokens: TokenData) -> None:
    settings = replace(SETTINGS, tokens=1)
    assert settings.steps == 1
    assert schedule(1, settings) == 1.0
    assert run(tokens, settings).tokens == 512


def test_weight_decay_is_for_matrices() -> None:
    backbone = {**BACKBONE, "qk_norm": True, "biases": ["q", "k", "v"]}
    model = HybridLM(architecture(backbone=backbone))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = (
        {names[id(parameter)] for parameter in group["params"]}
        for group in make_optimizer(model, SETTINGS, CPU).param_groups
    )
    assert decayed | plain == set(names.values())
    assert {"embed.weight", "loop_gate", "norm.weight"} <= plain
    assert all("norm" in name or name.endswith((".bias", "embed.weight", "loop_gate")) for name in plain)
    assert "head.weight" in decayed
    assert any(name.endswith("q.blocks") for name in decayed)


def test_tied_embeddings_are_not_decayed() -> None:
    model = HybridLM(architecture(backbone={**BACKBONE, "tie_embeddings": True}))
    plain = make_optimizer(model, SETTINGS, CPU).param_groups[1]["params"]
    assert any(parameter is model.head.weight for parameter in plain)


@pytest.mark.parametrize("rule", ["roles", "width"])
def test_roles_have_their_own_rates(tokens: TokenData, rule: str) -> None:
    """Adam's first step moves every weight that has a gradient by its whole learning rate."""
    settings = replace(SETTINGS, lr=1e-3, lr_rule=rule, warmup=0.0, weight_decay=0.0, clip=1e9)
    torch.manual_seed(0)
    model = HybridLM(architecture())
    with torch.no_grad():
        for parameter in model.parameters():  # off its start, where maps behind zeros have no gradient
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = torch.from_numpy(tokens.batch(np.arange(8), 32)).to(CPU)
    TrainStep(model, settings, CPU).step(1, batch[:, :-1], batch[:, 1:])
    moved = {
        name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()
    }
    for name, distance in moved.items():
        vector = name in ("embed.weight", "loop_gate") or "norm" in name or name.endswith("bias")
        wide, narrow = _inputs(model, name) if rule == "width" else (1, 1)
        rate = EMBEDDING_RATE if vector else (wide / narrow) ** (2 / 3)
        assert distance == pytest.approx(1e-3 * rate, rel=1e-2), name
    assert {name.split(".")[-1] for name in moved} >= {"blocks", "bias", "weight", "loop_gate"}


def _inputs(model: HybridLM, name: str) -> tuple[int, int]:
    """Inputs of the map that a parameter stands in, and of the parameter itself."""
    owner, _, own = name.rpartition(".")
    if own == "blocks":
        blocks, _, columns = model.get_parameter(name).shape
        return blocks * columns, columns
    if owner.endswith("decoder"):
        operator = model.get_submodule(owner.removesuffix(".decoder"))
        return operator.mu.in_features, operator.decoder.in_features
    return 1, 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_proxy_names_the_optimizer(optimizer: str) -> None:
    text = SPACE.replace("proxy: {", f"proxy: {{optimizer: {optimizer}, ")
    assert train_settings(parse_space(text), 0).optimizer == optimizer
    assert train_settings(parse_space(SPACE), 0).optimizer == "adamw"


@pytest.mark.parametrize("rule", ["roles", "width", "uniform"])
def test_the_proxy_names_the_rule(rule: str) -> None:
    text = SPACE.replace("proxy: {", f"proxy: {{lr_rule: {rule}, ")
    assert train_settings(parse_space(text), 0).lr_rule == rule


def test_by_one_rate_for_all_groups_differ_in_decay_only() -> None:
    groups = make_optimizer(HybridLM(architecture()), SETTINGS, CPU).param_groups
    assert [(group["weight_decay"], group["scale"]) for group in groups] == [(0.1, 1.0), (0.0, 1.0)]


def test_nan_fails_with_its_step(tokens: TokenData) -> None:
    model = HybridLM(architecture())

    def poison(progress: Progress) -> None:
        if progress.step == 5:
            model.layers[0].ffn.down.weight.data[0, 0] = math.nan  # type: ignore[union-attr, operator, index]

    with pytest.raises(TrainingFailed, match="loss became nan at step 6"):
        train(model, tokens, SETTINGS, seed=0, device=CPU, on_step=poison)


def test_exploding_loss_fails_with_its_step(tokens: TokenData) -> None:
    with pytest.raises(TrainingFailed, match=r"(exploded|became).* at step \d+"):
        run(tokens, replace(SETTINGS, lr=300.0, warmup=0.0, clip=1e9))


@pytest.mark.parametrize("times", [1.0, 40.0])
def test_a_loss_explodes_by_what_it_was_at_the_first_step(tokens: TokenData, times: float) -> None:
    """A run that starts badly is a run that can get better: its own start counts, not the vocabulary."""
    model = HybridLM(architecture())
    model.head.weight.data *= times
    train_step = TrainStep(model, SETTINGS, CPU)
    rows = torch.from_numpy(tokens.batch(np.arange(16), 32).astype(np.int64))
    train_step.step(1, rows[:, :-1], rows[:, 1:])
    first, _ = train_step.check(1)
    assert first == train_step.first()
    assert (first > 3 * math.log(512)) == (times > 1)
    train_step.check_alive(2.9 * first, 1.0, 2)
    with pytest.raises(TrainingFailed, match=rf"exploded to .* at step 3, from {first:.1f}"):
        train_step.check_alive(3.1 * first, 1.0, 3)


def test_a_run_that_stopped_remembers_its_first_loss(tokens: TokenData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        run(tokens, at_rung=lambda rung: False, checkpoint=path)
    state = load_state(path)
    assert state["first_loss"] == pytest.approx(math.log(512), abs=0.6)
    save_state(path, state | {"first_loss": 0.5})  # so that any later loss is three times as high
    with pytest.raises(TrainingFailed, match="exploded"):
        run(tokens, checkpoint=path)
    del state["first_loss"]  # of an older version
    save_state(path, state)
    assert math.isfinite(run(tokens, checkpoint=path).val_loss)


def test_text_must_fit(tokens: TokenData) -> None:
    with pytest.raises(UserError) as caught:
        check_data(tokens, replace(SETTINGS, seq_len=10**6, batch_tokens=512), 100)
    assert [problem.field for problem in caught.value.problems] == [
        "backbone.vocab_size",
        "batch_tokens",
        "train tokens",
        "val tokens",
    ]
    assert "at least the tokenizer's 512" in str(caught.value)


def test_evaluation_needs_a_window(tokens: TokenData) -> None:
    with pytest.raises(UserError, match="too small"):
        evaluate(HybridLM(architecture()), tokens, seq_len=10**6, max_tokens=10, batch_tokens=10, device=CPU)


def test_curve_has_every_point(tokens: TokenData, tmp_path: Path) -> None:
    run(tokens, curve=tmp_path / "curve.jsonl")
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    trained = [point for point in points if "loss" in point]
    assert [point["step"] for point in trained] == list(range(1, 17))
    assert [point["step"] for point in points if "val_loss" in point] == [4, 8, 16]
    assert all(point["tokens"] == 512 * point["step"] for point in points)
    assert set(trained[0]) == {"step", "tokens", "loss", "auxiliary", "lr", "grad_norm"}
    assert trained[0]["auxiliary"] > 0


@pytest.mark.parametrize("steps", [1, 199, 200, 201, 399, 5000])
def test_long_curves_stay_short(steps: int) -> None:
    logged = log_steps(steps)
    assert {1, steps} <= logged <= set(range(1, steps + 1))
    assert len(logged) <= CURVE_POINTS + 2


def test_bits_a_byte_counted_by_hand(tokens: TokenData) -> None:
    torch.manual_seed(0)
    model = HybridLM(architecture())
    result = evaluate(model, tokens, seq_len=32, max_tokens=1000, batch_tokens=96, device=CPU)
    model.eval()
    ids = torch.from_numpy(np.asarray(tokens.tokens("val")[: 31 * 32 + 1], dtype=np.int64))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, 31 * 32, 32):
            logits = model.head(model(ids[None, start : start + 32]))[0]
            nats += F.cross_entropy(logits, ids[start + 1 : start + 33], reduction="sum").item()
    tokenizer = TextTokenizer.open(tokens.tokenizer_dir)
    targets = [int(token) for token in ids[1:] if token != tokens.eos_id]
    size = len(tokenizer.decode(targets).encode())
    assert result.tokens == 31 * 32
    assert result.bytes == size
    assert result.val_loss == pytest.approx(nats / (31 * 32), rel=1e-6)
    assert result.val_bpb == pytest.approx(nats / math.log(2) / size, rel=1e-6)


@pytest.mark.parametrize("captured", [True, False])
def test_an_evaluation_without_room_has_that_of_a_captured_step(
    tokens: TokenData, monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    wanted = run(tokens)
    calls = []

    def crowded(self: HybridLM, *arguments: Any, **options: Any) -> torch.Tensor:
        if not self.training and not calls:
            calls.append("evaluation")
            raise torch.OutOfMemoryError("no memory left")
        return forward(self, *arguments, **options)

    def drop_capture(self: TrainStep) -> bool:
        calls.append("drop_capture")
        return captured

    forward = HybridLM.forward
    monkeypatch.setattr(HybridLM, "forward", crowded)
    monkeypatch.setattr(TrainStep, "drop_capture", drop_capture)
    result = run(tokens)
    assert calls == ["evaluation", "drop_capture"]
    if captured:
        assert exact(result) == exact(wanted)
    else:  # in smaller batches from there on
        assert result.losses == pytest.approx(wanted.losses, rel=1e-5)


@pytest.mark.parametrize(("room", "batches"), [(3, [8, 4, 2, 2]), (0, [8, 4, 2, 1])])
def test_an_evaluation_that_does_not_fit_is_halved(
    tokens: TokenData, monkeypatch: pytest.MonkeyPatch, room: int, batches: list[int]
) -> None:
    """Evaluations take as many sequences together as training does, and fewer where these don't fit."""
    wanted, seen = run(tokens, replace(SETTINGS, batch_tokens=256)), []
    forward = HybridLM.forward

    def crowded(self: HybridLM, rows: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if not self.training:
            seen.append(len(rows))
            if len(rows) > room:
                raise torch.OutOfMemoryError("no memory left")
        return forward(self, rows, *arguments, **options)

    monkeypatch.setattr(HybridLM, "forward", crowded)
    if room:
        assert run(tokens, replace(SETTINGS, batch_tokens=256)).losses == pytest.approx(
            wanted.losses, rel=1e-5
        )
    else:
        with pytest.raises(TrainingFailed, match="a single sequence does not fit"):
            run(tokens, replace(SETTINGS, batch_tokens=256))
    assert seen[:4] == batches


def test_speed_leaves_evaluation_out(tokens: TokenData, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only steps, 0.5 s each, and evaluations, 100 s each, move on."""
    now = 0.0

    def taking(seconds: float, work: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **options: object) -> object:
            nonlocal now
            now += seconds
            return work(*args, **options)

        return timed

    monkeypatch.setattr("studies.files.curve.time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(training, "evaluate", taking(100.0, training.evaluate))
    monkeypatch.setattr(TrainStep, "step", taking(0.5, TrainStep.step))
    seen: list[Progress] = []
    result = run(tokens, on_step=seen.append)
    assert now == result.seconds + 100 * len(result.losses)
    assert result.seconds == 0.5 * SETTINGS.steps
    assert {item.tokens_per_s for item in seen} == {SETTINGS.batch_tokens / 0.5}
    assert result.train_tokens_per_s == SETTINGS.batch_tokens / 0.5


def test_stops_between_steps(tokens: TokenData, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(Interrupted):
        run(
            tokens,
            curve=tmp_path / "curve.jsonl",
            on_step=lambda progress: seen.append(progress.step),
            should_stop=lambda: len(seen) == 3,
        )
    assert seen == [1, 2, 3]
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 3


def test_stops_inside_an_evaluation(tokens: TokenData) -> None:
    calls: list[int] = []

    def should_stop() -> bool:
        calls.append(1)
        return len(calls) == 5  # four steps, then the first batch of the evaluation

    seen: list[int] = []
    with pytest.raises(Interrupted):
        run(tokens, on_step=lambda progress: seen.append(progress.step), should_stop=should_stop)
    assert seen == [1, 2, 3, 4]
