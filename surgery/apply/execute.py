"""Carries out a plan in memory: tensors carried, averaged or fitted into the new model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from surgery.apply.calibrate import Calibration, Moments, Place, Progress, as_tokens, collect
from surgery.apply.families import source_name
from surgery.apply.fit import FITTERS, FitReport, errors
from surgery.apply.plan import Plan, TensorPlan
from surgery.apply.source import SourceModel
from surgery.architecture import Architecture
from surgery.hf.export import main_dtype
from surgery.model import HybridLM
from surgery.projections import PROJECTION_OPERATORS

State = dict[str, Tensor]


def execute(
    source: SourceModel,
    plan: Plan,
    *,
    calibration: Calibration | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[HybridLM, tuple[FitReport, ...]]:
    """The new model, on the CPU and in evaluation mode, each tensor in its source's dtype.

    Args:
        calibration: texts or token ids; operators are then fitted to the activations these give.
        device: where fitting and calibration run.

    Raises:
        UserError: a calibration text that can't be used.
    """
    backbone = source.backbone
    sequences: list[Tensor] = []
    if plan.fitted:
        sequences = as_tokens(
            calibration, source.folder, backbone.vocab_size, backbone.max_position_embeddings
        )
    state = _carried(source, plan, progress)
    reports = []
    if plan.fitted:
        dense = _dense_state(source, plan, state)
        for moments in _moments(plan, dense, sequences, device, progress):
            for place in moments:
                reports.append(_fit(plan, place, moments[place], dense, state, device))
                if progress is not None:
                    progress("fitting", len(reports), len(plan.fitted))
    return assemble(plan.after, state), tuple(reports)


def assemble(architecture: Architecture, state: State) -> HybridLM:
    """The model of an architecture with these very tensors."""
    with torch.device("meta"):
        model = HybridLM(architecture)
    if architecture.backbone.tie_embeddings:
        state = {**state, "head.weight": state["embed.weight"]}
    model.load_state_dict(state, assign=True)
    if architecture.backbone.tie_embeddings:
        model.head.weight = model.embed.weight
    return model.requires_grad_(True).eval()


def _carried(source: SourceModel, plan: Plan, progress: Progress | None) -> State:
    """Everything but fitted tensors."""
    state: State = {}
    fresh = _fresh(plan)
    items = [item for item in plan.tensors if item.action in ("kept", "averaged", "new")]
    for done, item in enumerate(items):
        if item.action == "new":
            state[item.name] = fresh[item.name].to(getattr(torch, item.dtype))
        else:
            state[item.name] = _source_tensor(source, item.sources)
        if progress is not None:
            progress("carrying", done + 1, len(items))
    return state


def _source_tensor(source: SourceModel, names: tuple[str, ...]) -> Tensor:
    """One tensor as it is, or the mean of several in the first one's dtype."""
    if len(names) == 1:
        return source.tensor(names[0])
    tensors = [source.tensor(name) for name in names]
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)


def _fresh(plan: Plan) -> State:
    """Starting values for tensors that the model has no counterpart of; the same every time."""
    new = [item for item in plan.tensors if item.action == "new"]
    if all(item.name == "loop_gate" for item in new):
        return {item.name: torch.zeros(item.shape) for item in new}  # a gate starts closed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HybridLM(plan.after)
    wanted = {item.name for item in new}
    return {name: tensor for name, tensor in model.state_dict().items() if name in wanted}


def _dense_plan(plan: Plan) -> Architecture:
    """The same layers and loops with dense projections only: what the fitted model imitates."""
    after = plan.after
    return Architecture(after.backbone, after.layout, after.mixers, (), after.loop_count)


def _dense_state(source: SourceModel, plan: Plan, state: State) -> State:
    """Tensors of the dense model, those that are carried shared with `state`."""
    dense = dict(state)
    for item in _replaced(plan):
        layer, name = _place(item)
        dense[_weight_name(plan, (layer, name))] = _source_tensor(source, item.sources)
    return dense


def _replaced(plan: Plan) -> Iterator[TensorPlan]:
    """One fitted tensor for each fitted projection: they all name the dense weight they come from."""
    seen: set[Place] = set()
    for item in plan.tensors:
        if item.action == "fitted" and _place(item) not in seen:
            seen.add(_place(item))
            yield item


def _place(item: TensorPlan) -> Place:
    parts = item.name.split(".")
    return int(parts[1]), parts[3]


def _weight_name(plan: Plan, place: Place) -> str:
    layer, name = place
    part = "ffn" if name in ("gate", "up", "down") else "mixer"
    found = f"layers.{layer}.{part}.{name}.weight"
    assert source_name(found) is not None
    return found


def _moments(
    plan: Plan, dense: State, sequences: list[Tensor], device: str | torch.device, progress: Progress | None
) -> Iterator[dict[Place, Tensor | None]]:
    """Moments of every fitted projection's inputs, in groups; None for each without a calibration text."""
    if not sequences:
        yield dict.fromkeys(plan.fitted)
        return
    on_gpu = torch.device(device).type != "cpu"
    dtype = main_dtype(dense) if on_gpu else torch.float32
    model = assemble(_dense_plan(plan), {name: tensor.to(device, dtype) for name, tensor in dense.items()})
    found: Moments
    for found in collect(model, sequences, plan.fitted, progress):
        yield dict(found)


def _fit(
    plan: Plan, place: Place, moments: Tensor | None, dense: State, state: State, device: str | torch.device
) -> FitReport:
    """Fits one projection; its parameters go into `state`."""
    layer, name = place
    operator = plan.after.layers[layer].projections[name]
    weight_name = _weight_name(plan, place)
    weight = dense[weight_name]
    exact = weight.to(device, torch.float32)
    fitted = FITTERS[operator.name](exact, moments, operator.options)
    prefix = weight_name.removesuffix("weight")
    for key, value in fitted.parameters.items():
        state[prefix + key] = value.to("cpu", weight.dtype).contiguous()
    of_weight, of_output = errors(exact, fitted.weight, moments)
    short = f"{operator.name} {PROJECTION_OPERATORS[operator.name].short(operator.options)}".strip()
    return FitReport(layer, name, short, of_weight, of_output, fitted.steps)
