"""A plan as a file: written, edited by the user, and given back in place of an architecture.

It holds the architecture, the fold, and the action for each module's tensors. An action may be changed into
another one that is possible there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from surgery.apply.families import source_name
from surgery.apply.source import SourceModel
from surgery.apply.tensors import TensorPlan
from surgery.architecture import Architecture
from surgery.config.problems import Problems, nearest
from surgery.config.yaml_source import Source

KEYS = ("architecture", "fold", "tensors")
_OUTPUTS = ("mixer.o", "ffn.down")  # zero, they silence their part


@dataclass(frozen=True)
class PlanFile:
    """Content of a plan's file, not yet checked against a model."""

    architecture: dict[str, Any]
    fold: object
    actions: Mapping[object, object]  # by module
    source: Source

    @classmethod
    def read(cls, source: Source) -> PlanFile | None:
        """Read a parsed YAML file; None if it is not a plan, but perhaps an architecture.

        Raises:
            UserError: a plan whose parts have the wrong form.
        """
        data = source.data
        if not isinstance(data, dict) or "architecture" not in data:
            return None
        problems = Problems()
        if not isinstance(data["architecture"], dict):
            problems.add(
                "architecture", None, "must be a mapping of fields", "", source.line(("architecture",))
            )
        for key in data.keys() - set(KEYS):
            problems.add(str(key), None, "is not a field of a plan", f"fields: {', '.join(KEYS)}")
        actions = data.get("tensors", {})
        if not isinstance(actions, dict):
            problems.add("tensors", None, "must map modules to actions", "", source.line(("tensors",)))
        problems.raise_if_any(f"{source.name}: not a valid plan")
        return cls(data["architecture"], data.get("fold"), actions, source)


def plan_text(after: Architecture, fold: str | None, tensors: Iterable[TensorPlan]) -> str:
    """Return the YAML text of a plan."""
    import yaml

    actions = {module: group[0].action for module, group in _modules(tensors).items()}
    data = {"architecture": after.to_dict(), **({"fold": fold} if fold else {}), "tensors": actions}
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)


def edited(
    source: SourceModel, tensors: tuple[TensorPlan, ...], groups: tuple[tuple[int, ...], ...], file: PlanFile
) -> tuple[TensorPlan, ...]:
    """Return the plans of the tensors with the actions of the file.

    Args:
        source: the checkpoint.
        tensors: the plans without the file.
        groups: for each physical layer, the model's layers that it is made from.
        file: the plan's file.

    Raises:
        UserError: lists the modules that don't exist, and the actions that are not possible.
    """
    problems = Problems()
    modules = _modules(tensors)
    changed: dict[str, TensorPlan] = {}
    for module, action in file.actions.items():
        line = file.source.line(("tensors", str(module)))
        if not isinstance(module, str) or module not in modules:
            hint = nearest(str(module), modules)
            problems.add(f"tensors.{module}", None, "is not a module of the architecture", hint, line)
            continue
        group = modules[module]
        if action == group[0].action:
            continue
        choices = {
            "new": [replace(item, action="new", sources=()) for item in group],
            "silent": [replace(item, action="silent", sources=()) for item in group],
            "kept": [kept for item in group if (kept := _kept(source, item, groups)) is not None],
        }
        allowed = [name for name in _choices(module, group) if len(choices[name]) == len(group)]
        if action not in allowed:
            rule = f"must be {' or '.join(dict.fromkeys([group[0].action, *allowed]))}"
            problems.add(f"tensors.{module}", action, rule, "", line)
            continue
        changed |= {item.name: item for item in choices[str(action)]}
    result = tuple(changed.get(item.name, item) for item in tensors)
    _check_whole_parts(tensors, result, problems)
    problems.raise_if_any(f"{file.source.name}: can't be carried out")
    return result


def _modules(tensors: Iterable[TensorPlan]) -> dict[str, list[TensorPlan]]:
    """Group tensors by module, weights before biases: `layers.3.mixer.q`, `layers.3.ffn_norm`, `embed`."""
    modules: dict[str, list[TensorPlan]] = {}
    for tensor in sorted(tensors, key=lambda item: item.name.endswith(".bias")):
        parts = tensor.name.split(".")
        size = (
            4 if parts[0] == "layers" and parts[2] in ("mixer", "ffn") else 3 if parts[0] == "layers" else 1
        )
        modules.setdefault(".".join(parts[:size]), []).append(tensor)
    order = {tensor.name: index for index, tensor in enumerate(tensors)}
    return dict(sorted(modules.items(), key=lambda item: min(order[tensor.name] for tensor in item[1])))


def _choices(module: str, group: list[TensorPlan]) -> Iterator[str]:
    """Yield the actions that a user may give to a module instead of the planned one."""
    if any(item.action == "shared" for item in group):
        return
    yield "new"
    yield "kept"
    if module.endswith(_OUTPUTS):
        yield "silent"


def _kept(source: SourceModel, item: TensorPlan, groups: tuple[tuple[int, ...], ...]) -> TensorPlan | None:
    """Return the plan that keeps a tensor; None if the model has none of its name and shape."""
    _, _, end = item.name.partition(f"layers.{item.layer}.")
    layers = groups[item.layer] if item.layer is not None else ()
    names = [f"layers.{layer}.{end}" for layer in layers] or [item.name]
    parents = tuple(name for name in map(source_name, names) if name in source.tensors)
    if len(parents) != len(names) or any(source.tensors[name].shape != item.shape for name in parents):
        return None
    return replace(item, action="averaged" if len(names) > 1 else "kept", sources=parents)


def _check_whole_parts(
    before: tuple[TensorPlan, ...], after: tuple[TensorPlan, ...], problems: Problems
) -> None:
    """Check that a part is transplanted or pruned as a whole, but for an output that may be silent.

    A mixer's parameters are computed together, and the channels of a pruned part belong together.
    """
    for part, action in (("mixer", "transplanted"), ("ffn", "pruned")):
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.action == action]
        for layer in sorted({old.layer for old, _ in pairs if old.layer is not None}):
            now = [
                new.action == action for old, new in pairs if old.layer == layer and new.action != "silent"
            ]
            if any(now) and not all(now):
                output = "o" if part == "mixer" else "down"
                problems.add(
                    f"tensors.layers.{layer}.{part}", None, f"is {action} as a whole",
                    f"change all of its {action} modules, or make only `{output}` silent",
                )  # fmt: skip
