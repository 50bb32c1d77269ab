"""Execution of a plan: tensors are kept, averaged, transplanted or fitted into the new model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgery.apply.calibrate import (
    STAGES,
    Calibration,
    Stream,
    as_tokens,
    load,
    module,
)
from surgery.apply.fit import FitReport, fitter_of, weight_error
from surgery.apply.importance import GATED, row_importance
from surgery.apply.plan import Plan
from surgery.apply.prune import prune
from surgery.apply.source import SourceModel, ValueCheck
from surgery.apply.transplants import source_tensor, transplant
from surgery.config.backbone import FFN_PROJECTIONS
from surgery.hf.lazy import LazyModel, LazyTensor, in_float32, make_block
from surgery.hf.weights import Progress
from surgery.model import Block, HybridLM
from surgery.projections import PROJECTION_OPERATORS

State = dict[str, LazyTensor]
MADE = ("fitted", "transplanted", "pruned")  # actions of the tensors that `fit_layer` makes


def execute(
    source: SourceModel,
    plan: Plan,
    *,
    calibration: Calibration | None = None,
    hdpl_fit: str = "full",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[HybridLM, tuple[FitReport, ...]]:
    """Build the new model in memory, on the CPU and in evaluation mode. Arguments and errors as in `rewrite`.

    Returns:
        The model, and a report on each fitted projection and each transplanted mixer.
    """
    model, reports = rewrite(
        source, plan, calibration=calibration, hdpl_fit=hdpl_fit, device=device, progress=progress
    )
    return model.read(), reports


def rewrite(
    source: SourceModel,
    plan: Plan,
    *,
    calibration: Calibration | None = None,
    hdpl_fit: str = "full",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    check: ValueCheck | None = None,
) -> tuple[LazyModel, tuple[FitReport, ...]]:
    """Return the new model, each tensor in its source's dtype.

    Tensors that are made by `fit_layer` or new are in memory. The others are read from the checkpoint, and
    averaged, whenever they are asked for.

    Args:
        source: the checkpoint.
        plan: what becomes of its tensors.
        calibration: texts or token ids to whose activations operators are fitted and mixers transplanted;
            None: operators are fitted to the weights alone, and transplanted mixers that need a text are
            silent.
        hdpl_fit: form of fitted latents, see `surgery.apply.fit.FORMS`.
        device: device of fitting and calibration.
        progress: called with (stage, done, total).
        check: sees every tensor that is carried, as it is read.

    Returns:
        The model, and a report on each fitted projection and each transplanted mixer.

    Raises:
        UserError: the calibration text can't be used.
    """
    backbone = source.backbone
    sequences: list[Tensor] = []
    if plan.uses_text:
        sequences = as_tokens(
            calibration, source.folder, backbone.vocab_size, backbone.max_position_embeddings
        )
    state = carried(source, plan, check=check)
    reports: tuple[FitReport, ...] = ()
    if plan.uses_text:
        reports = tuple(_fit(source, plan, state, sequences, hdpl_fit, torch.device(device), progress))
    if plan.after.backbone.tie_embeddings:
        state["head.weight"] = state["embed.weight"]
    return LazyModel(plan.after, {item.name: state[item.name] for item in plan.tensors}), reports


def carried(
    source: SourceModel, plan: Plan, layer: int | None = None, check: ValueCheck | None = None
) -> State:
    """Return all tensors that are not made in `fit_layer`; only those of one layer if it is given."""
    items = [item for item in plan.tensors if layer is None or item.layer == layer]
    items = [item for item in items if item.action not in (*MADE, "shared")]
    state: State = {}
    fresh = _fresh(plan, {item.name for item in items if item.action in ("new", "silent")})
    for item in items:
        dtype = getattr(torch, item.dtype)
        if item.name in fresh:
            state[item.name] = LazyTensor.of(fresh[item.name].to(dtype))
        else:
            read = partial(source_tensor, source, item.sources, check)
            state[item.name] = LazyTensor(item.shape, dtype, read)
    return state


def _fresh(plan: Plan, names: set[str]) -> dict[str, Tensor]:
    """Return deterministic initial values of these tensors, which have no counterpart in the source model."""
    items = [item for item in plan.tensors if item.name in names]
    if all(item.name == "loop_gate" for item in items):
        return {item.name: torch.zeros(item.shape) for item in items}  # a gate starts closed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HybridLM(plan.after)
    for name in {".".join(item.name.split(".")[:4]) for item in items if item.action == "silent"}:
        output: Any = model.get_submodule(name)
        output.start_at_zero()
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def _fit(
    source: SourceModel,
    plan: Plan,
    state: State,
    sequences: list[Tensor],
    form: str,
    device: torch.device,
    progress: Progress | None,
) -> Iterator[FitReport]:
    """Transplant and fit layer after layer, and add the parameters to `state`."""
    stream = Stream(plan.after, state["embed.weight"].read(), sequences, device) if sequences else None
    layers = {layer for layer, _ in plan.fitted} | set(plan.transplanted) | set(plan.pruned)
    done = 0
    for index in range(max(layers) + 1):
        block = make_block(plan.after, index, state, in_float32(device)) if stream is not None else None
        for report in fit_layer(source, plan, index, state, block, stream, form, device):
            yield report
            if progress is not None and report.projection == "mixer":
                progress("transplanting", plan.transplanted.index(index) + 1, len(plan.transplanted))
            elif progress is not None and report.projection == "ffn":
                progress("pruning", plan.pruned.index(index) + 1, len(plan.pruned))
            elif progress is not None:
                done += 1
                progress("fitting", done, len(plan.fitted))
        if stream is not None and block is not None:
            stream.advance(block)


def fit_layer(
    source: SourceModel,
    plan: Plan,
    index: int,
    state: State,
    block: Block | None,
    stream: Stream | None,
    form: str,
    device: torch.device,
) -> Iterator[FitReport]:
    """Transplant, prune and fit the parts of one layer, and add their parameters to `state` and to `block`.

    Args:
        source: the checkpoint.
        plan: what becomes of its tensors.
        index: the layer.
        state: the tensors of the new layer that are not made here, extended.
        block: the layer with these tensors; None without a text.
        stream: the text at the input of this layer; it stays there. None without a text.
        form: form of fitted latents.
        device: where to compute.
    """
    replaced = {item.projection: item.sources for item in plan.tensors if item.action == "fitted"}
    dense: dict[str, Tensor] = {}
    if index in plan.transplanted:
        text = stream.mixer_inputs(block) if stream is not None and block is not None else []
        dense, report = transplant(source, plan, index, state, text, device)
        if block is not None and block.mixer is not None:
            load(block.mixer, dense, device)
        yield report
    for stage in STAGES:
        if "gate" in stage:
            dense = {}
            if index in plan.pruned:
                inputs: list[Tensor] = []
                if stream is not None and block is not None:
                    inputs = list(stream.inputs(block, "gate"))
                dense, report = prune(source, plan, index, state, inputs, device)
                if block is not None and block.ffn is not None:
                    load(block.ffn, dense, device)
                yield report
        moments = None
        importance: dict[str, Tensor] = {}
        for name in (name for name in stage if (index, name) in replaced):
            if moments is None and stream is not None and block is not None:
                moments = stream.moments(block, name)
                if name in GATED:
                    original = _feed_forward(source, replaced, state, dense, index, device)
                    importance = row_importance(stream.inputs(block, name), original)
            weight = dense.get(f"{name}.weight")
            if weight is None:
                weight = source_tensor(source, replaced[index, name])
            operator = plan.after.layers[index].projections[name]
            target = weight.to(device, torch.float32)
            fitted = fitter_of(operator.name)(target, moments, operator.options, form, importance.get(name))
            part = "ffn" if name in FFN_PROJECTIONS else "mixer"
            dtype = source.tensors[replaced[index, name][0]].dtype
            stored = {key: value.to("cpu", dtype) for key, value in fitted.parameters.items()}
            for key, value in stored.items():
                state[f"layers.{index}.{part}.{name}.{key}"] = LazyTensor.of(value.contiguous())
            if block is not None:
                load(module(block, name), stored, device)
            of_weight, of_output = weight_error(target, fitted.weight), None
            if stream is not None and block is not None:
                of_output = stream.output_error(block, name, target)
            short = PROJECTION_OPERATORS[operator.name].short(operator.options)
            yield FitReport(
                index, name, f"{operator.name} {short}".strip(), of_weight, of_output, fitted.steps
            )


def _feed_forward(
    source: SourceModel,
    replaced: dict[tuple[int, str], tuple[str, ...]],
    state: State,
    dense: dict[str, Tensor],
    index: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the original weights of a layer's gate, up and down in float32, or the pruned ones (`dense`)."""
    weights = {
        name: dense[f"{name}.weight"]
        if dense
        else source_tensor(source, replaced[index, name])
        if (index, name) in replaced
        else state[f"layers.{index}.ffn.{name}.weight"].read()
        for name in FFN_PROJECTIONS
    }
    return {name: weight.to(device, torch.float32) for name, weight in weights.items()}
