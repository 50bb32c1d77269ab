"""The plan of a surgery: the treatment of every tensor, before any is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.apply.defaults import generation_defaults
from surgery.apply.plan_file import PlanFile, edited, plan_text
from surgery.apply.source import SourceModel
from surgery.apply.stock import OURS, Export, choose_export
from surgery.apply.target import FOLDS, folded_layers, read_architecture
from surgery.apply.tensors import ACTIONS, TensorPlan, plan_tensors
from surgery.architecture import Architecture
from surgery.architecture.metrics import METRICS
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.config.quantities import format_bytes
from surgery.config.recognise import refuse_other
from surgery.config.selector import write_layers
from surgery.config.yaml_source import Source, load_yaml
from surgery.hf.card import costs
from surgery.hf.staging import free_bytes
from surgery.projections import PROJECTION_OPERATORS

_SPARE_BYTES = 64 * 2**20  # configs, tokenizer, source and card, in addition to the weights


@dataclass(frozen=True)
class RulePlan:
    """A projection rule and the number of projections it decides."""

    rule: str
    matches: int


@dataclass(frozen=True)
class LayerPlan:
    """One physical layer: the model's layers it replaces, and its operators.

    Parameters are those of its projections.
    """

    index: int
    sources: tuple[int, ...]  # more than one: folded onto each other
    mixer: str
    operators: Mapping[str, str]  # projection -> `dense` or `hdpl b8 r128`
    params_before: int
    params_after: int


@dataclass(frozen=True)
class Cost:
    """An analytic metric of the model before and after."""

    metric: str
    unit: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """A planned surgery, before anything is written."""

    model: str  # as given: a folder or a Hub id
    on_hub: bool
    family: str
    before: Architecture
    after: Architecture
    scaled: tuple[str, ...]  # sizes in proportion to the model's, of a design for another size
    fold: str | None  # method of combining folded layers; None if there are none
    rules: tuple[RulePlan, ...]
    layers: tuple[LayerPlan, ...]
    tensors: tuple[TensorPlan, ...]
    costs: tuple[Cost, ...]
    unused: tuple[str, ...]  # the checkpoint's tensors that are not used
    disk_needed: int  # bytes
    disk_free: int | None  # bytes on the output's disk, if it is known
    warnings: tuple[str, ...]
    export: Export  # the class that is written

    @property
    def title(self) -> str:
        """Public name of the model: its Hub id, or the last part of the folder's path."""
        return self.model if self.on_hub else Path(self.model).absolute().name

    def count(self, action: str) -> int:
        """Return the number of tensors with this action."""
        return sum(tensor.action == action for tensor in self.tensors)

    @property
    def fitted(self) -> tuple[tuple[int, str], ...]:
        """(layer, projection) of all fitted projections."""
        targets = {tensor.projection for tensor in self.tensors if tensor.action == "fitted"}
        return tuple(
            (layer.index, name)
            for layer in self.layers
            for name in layer.operators
            if (layer.index, name) in targets
        )

    @property
    def transplanted(self) -> tuple[int, ...]:
        """Layers whose mixer starts from the weights of another one."""
        layers = {tensor.layer for tensor in self.tensors if tensor.action == "transplanted"}
        return tuple(sorted(layer for layer in layers if layer is not None))

    @property
    def pruned(self) -> tuple[int, ...]:
        """Layers whose feed-forward part has some of the original's hidden channels.

        Operators may be fitted to all of its projections.
        """
        made = {tensor.layer for tensor in self.tensors if tensor.action in ("pruned", "fitted")}
        widths = (
            (layer.ffn_dim, self.before.layers[item.sources[0]].ffn_dim)
            for layer, item in zip(self.after.layers, self.layers, strict=True)
        )
        return tuple(index for index, (new, old) in enumerate(widths) if 0 < new < old and index in made)

    @property
    def uses_text(self) -> bool:
        """True if a calibration text improves the result."""
        return bool(self.fitted or self.transplanted or self.pruned)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        data = asdict(self)
        data["before"], data["after"] = _describe(self.before), _describe(self.after)
        data["actions"] = {action: self.count(action) for action in ACTIONS}
        return data

    def to_yaml(self) -> str:
        """Return the text of a file that `plan` takes in place of an architecture, actions edited or not."""
        return plan_text(self.after, self.fold, self.tensors)

    def check_disk(self) -> None:
        """Check the free disk space.

        Raises:
            UserError: not enough space for the output.
        """
        if self.disk_free is not None and self.disk_free < self.disk_needed:
            needed, free = format_bytes(self.disk_needed), format_bytes(self.disk_free)
            problem = Problem(
                "output", None, f"needs {needed} of disk, {free} are free", "choose another disk"
            )
            raise UserError("not enough disk space", [problem])


def plan(
    source: SourceModel,
    architecture: str | os.PathLike[str] | Mapping[str, Any] | Architecture,
    *,
    fold: str = "average",
    out: str | os.PathLike[str] | None = None,
    stock: bool = True,
) -> Plan:
    """Plan the surgery of `source` into `architecture`.

    Args:
        source: the checkpoint.
        architecture: a YAML file, plain data or an architecture; missing fields of `backbone` are the
            model's. Or the file of a plan (`Plan.to_yaml`), whose actions are carried out.
        fold: method of combining the layers folded onto a physical layer, `average` or `first`; that of a
            plan's file comes first.
        out: future folder of the model, for the free disk space.
        stock: write a class of transformers if one computes the same; else always a class of ours.

    Raises:
        UserError: the architecture is invalid, or does not fit this model.
    """
    file: PlanFile | None = None
    wanted: Source | Mapping[str, Any] | Architecture
    if isinstance(architecture, str | os.PathLike):
        refuse_other(architecture, "architecture", "design", "plan")
        wanted = load_yaml(os.fspath(architecture))
        if (file := PlanFile.read(wanted)) is not None:
            wanted = file.architecture
    else:
        wanted = architecture
    if file is not None and file.fold is not None:
        fold = str(file.fold)
    if fold not in FOLDS:
        raise UserError("can't plan", [Problem("fold", fold, f"must be one of {', '.join(FOLDS)}")])
    after, scaled = read_architecture(wanted, source.architecture)
    groups = folded_layers(source.backbone.num_layers, after)
    folded = any(len(group) > 1 for group in groups)
    sources = tuple(group[:1] for group in groups) if fold == "first" else groups
    tensors = tuple(plan_tensors(source, after, sources))
    if file is not None:
        tensors = edited(source, tensors, sources, file)
    used = {name for tensor in tensors for name in tensor.sources}
    unused = tuple(
        name for name in source.tensors
        if name not in used and not (source.backbone.tie_embeddings and name == "lm_head.weight")
    )  # fmt: skip
    return Plan(
        model=source.name,
        on_hub=source.hub_id is not None,
        family=source.family,
        before=source.architecture,
        after=after,
        scaled=scaled,
        fold=fold if folded else None,
        rules=_rules(after),
        layers=_layers(source, after, groups),
        tensors=tensors,
        costs=_costs(source.architecture, after),
        unused=unused,
        disk_needed=sum(tensor.bytes for tensor in tensors) + _SPARE_BYTES,
        disk_free=free_bytes(expand(out).absolute()) if out is not None else None,
        warnings=(*_warnings(after, tensors, folded), *source.notes, *generation_defaults(source)[1]),
        export=choose_export(after, source.family) if stock else OURS,
    )


def _rules(after: Architecture) -> tuple[RulePlan, ...]:
    plans = []
    for rule, matches in zip(after.rules, after.rule_matches(), strict=True):
        layers = f" in layers {rule.layers}" if rule.layers else ""
        short = PROJECTION_OPERATORS[rule.operator].short(rule.options)
        plans.append(RulePlan(f"{' '.join(rule.match)}{layers} -> {rule.operator} {short}".strip(), matches))
    return tuple(plans)


def _layers(
    source: SourceModel, after: Architecture, groups: tuple[tuple[int, ...], ...]
) -> tuple[LayerPlan, ...]:
    before = source.architecture.layers
    plans = []
    for index, layer in enumerate(after.layers):
        operators = {
            name: f"{item.name} {PROJECTION_OPERATORS[item.name].short(item.options)}".strip()
            for name, item in layer.projections.items()
        }
        old = sum(_layer_params(before[group]) for group in groups[index])
        plans.append(LayerPlan(index, groups[index], layer.mixer, operators, old, _layer_params(layer)))
    return tuple(plans)


def _layer_params(layer: Any) -> int:
    """Return the number of parameters of a layer's projections."""
    return sum(
        PROJECTION_OPERATORS[item.name].params(item.d_in, item.d_out, item.options)
        + (item.d_out if item.bias else 0)
        for item in layer.projections.values()
    )


def _costs(before: Architecture, after: Architecture) -> tuple[Cost, ...]:
    old, new = costs(before), costs(after, before)
    return tuple(Cost(name, METRICS[name.partition("@")[0]].unit, old[name], new[name]) for name in new)


def _warnings(after: Architecture, tensors: tuple[TensorPlan, ...], folded: bool) -> Iterator[str]:
    yield from after.warnings()
    new = [tensor.name for tensor in tensors if tensor.action == "new" and tensor.name != "loop_gate"]
    if new:
        yield f"{len(new)} tensors have no counterpart in the model and start untrained, such as {new[0]}"
    silent = [tensor.layer for tensor in tensors if tensor.action == "silent"]
    if silent:
        layers = write_layers(tuple(sorted({layer for layer in silent if layer is not None})), None)
        yield f"the mixers of layers {layers} are silent until they are trained: nothing fits their weights"
    if folded:
        yield "folding layers onto each other breaks the model until it is healed by training"
    elif after.loop_count > 1:
        which = "every layer runs" if after.loop_place is None else f"layers {after.loop_place} run"
        yield f"{which} {after.loop_count} times: the model needs healing by training"
    larger = {
        f"{name}: {item.name} {spec.short(item.options)} has more parameters than the dense map it replaces"
        for layer in after.layers
        for name, item in layer.projections.items()
        if (spec := PROJECTION_OPERATORS[item.name]).params(item.d_in, item.d_out, item.options)
        > item.d_in * item.d_out
    }
    yield from sorted(larger)
    for rule, count in zip(after.rules, after.rule_matches(), strict=True):
        if count == 0:
            yield f"the rule '{' '.join(rule.match)} -> {rule.operator}' matches no projection"


def _describe(architecture: Architecture) -> dict[str, Any]:
    return {"line": architecture.line, "hash": architecture.hash, "architecture": architecture.to_dict()}
