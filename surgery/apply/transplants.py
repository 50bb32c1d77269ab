"""Starting a layer's new mixer from the weights of the model's old one."""

from __future__ import annotations

from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from surgery.apply.families import source_name
from surgery.apply.fit import FitReport
from surgery.apply.plan import Plan
from surgery.apply.source import SourceModel, ValueCheck
from surgery.apply.tensors import mixer_origins
from surgery.architecture import Layer
from surgery.config.backbone import Backbone
from surgery.hf.lazy import LazyTensor
from surgery.mixers import MIXERS
from surgery.mixers.transplant import Text, Transplanter, output_error
from surgery.projections import PROJECTION_OPERATORS


def transplant(
    source: SourceModel,
    plan: Plan,
    index: int,
    state: dict[str, LazyTensor],
    text: Text,
    device: torch.device,
) -> tuple[dict[str, Tensor], FitReport]:
    """Run a layer's transplanter, and add its dense parameters to `state`.

    Args:
        source: the checkpoint.
        plan: the plan, which transplants this layer's mixer.
        index: physical layer.
        state: the new model's tensors so far, extended here.
        text: inputs of the mixer; may be empty.
        device: device of the computation.

    Returns:
        The transplanted parameters by their names in a dense mixer, and the error of its outputs.
    """
    layer, prefix = plan.after.layers[index], f"layers.{index}.mixer."
    group = plan.layers[index].sources[: 1 if plan.fold == "first" else None]
    old_layer = plan.before.layers[group[0]]
    backbone = plan.after.backbone
    old = _dense(backbone, old_layer).to(device)
    old.load_state_dict({
        name: source_tensor(source, tuple(_parent(name, number) for number in group))
        for name in old.state_dict()
    })  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        new = _dense(backbone, layer).to(device)
    known = {
        name.removeprefix(prefix): value.read() for name, value in state.items() if name.startswith(prefix)
    }
    origins = mixer_origins(plan.before, plan.after, index, group) or {}
    for name in new.state_dict():
        origin = origins.get(name.split(".")[0])
        if origin is not None and origin.unchanged:  # also where an operator replaces it
            known[name] = source_tensor(source, tuple(_parent(name, number) for number in group))
    new.load_state_dict({name: known[name] for name in new.state_dict() if name in known}, strict=False)
    _transplanter(layer)(new, old, text)
    planned = {item.name: item for item in plan.tensors if item.layer == index}
    for name, parameter in new.named_parameters():
        if prefix + name in planned and planned[prefix + name].action == "silent":
            parameter.data.zero_()
    values = {
        name: value.detach()
        for name, value in new.state_dict().items()
        if prefix + name not in planned or planned[prefix + name].action == "transplanted"
    }
    for name, value in values.items():
        if prefix + name in planned:
            dtype = getattr(torch, planned[prefix + name].dtype)
            state[prefix + name] = LazyTensor.of(value.to("cpu", dtype).contiguous())
    return values, FitReport(index, "mixer", layer.mixer, None, output_error(new, old, text), 1)


def source_tensor(source: SourceModel, names: tuple[str, ...], check: ValueCheck | None = None) -> Tensor:
    """Return a tensor unchanged, or the mean of several in the first one's dtype.

    `check` sees what is read.
    """
    mean: Tensor | None = None
    dtype = source.tensors[names[0]].dtype
    for name in names:
        tensor = source.tensor(name)
        if check is not None:
            check.see(name, tensor)
        if len(names) == 1:
            return tensor
        if mean is None:
            mean = torch.zeros(tensor.shape, dtype=torch.float64)
        mean += tensor
    assert mean is not None, "a tensor without sources"
    return (mean / len(names)).to(dtype)


def _parent(name: str, layer: int) -> str:
    parent = source_name(f"layers.{layer}.mixer.{name}")
    assert parent is not None, name
    return parent


def _dense(backbone: Backbone, layer: Layer) -> nn.Module:
    """Build a layer's mixer in float32 with dense projections."""

    def projection(name: str) -> nn.Module:
        item = layer.projections[name]
        return PROJECTION_OPERATORS["dense"].build(item.d_in, item.d_out, item.bias, {})

    mixer = MIXERS[layer.mixer].build(backbone, layer.mixer_options, projection)
    assert mixer is not None, "a layer without a mixer is neither transplanted nor transplanted from"
    return mixer.float().eval()


def _transplanter(layer: Layer) -> Transplanter:
    path = MIXERS[layer.mixer].transplanter
    assert path is not None, layer.mixer
    function: Transplanter = resolve_name(path)
    return function
