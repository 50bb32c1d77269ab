"""Loading spaces: presets by name, files by path."""

from __future__ import annotations

import copyreg
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from search_spaces.pretrained import ModelSection, is_pretrained
from search_spaces.schema import read_space
from search_spaces.space import SearchSpace
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError, nearest
from surgery.config.recognise import nearest_file, recognise, refuse_other
from surgery.config.yaml_source import Source, load_yaml

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """A space shipped with the package."""

    name: str
    summary: str
    path: Path


def list_presets() -> list[Preset]:
    """Return the presets sorted by name; the summary is the first comment of the file."""
    presets = []
    for path in sorted(PRESETS.glob("*.yaml"), key=lambda path: path.stem):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        presets.append(Preset(path.stem, first.lstrip("# ").strip(), path))
    return presets


def load_space(name_or_path: str | Path, model: ModelSection | None = None) -> SearchSpace:
    """Load and check a space. A file of that name takes precedence over a preset.

    Args:
        name_or_path: the file, or the name of a preset.
        model: the pretrained model that a space of replacements is about; it becomes a section of the text.

    Raises:
        UserError: there is no such file or preset, or the file has problems.
    """
    path = expand(name_or_path)
    if os.path.isfile(path):
        refuse_other(path, "space")
        return read_space(_with_model(load_yaml(path), model), _name_of(path))
    name = str(name_or_path)
    presets = {preset.name: preset for preset in list_presets()}
    if name in presets:
        return read_space(_with_model(load_yaml(presets[name].path), model), name)
    known = f"presets are {', '.join(presets)}"
    if os.path.isdir(path):
        refuse_other(path, "space")
        raise UserError(f"can't read {name}", [Problem("space", name, "is a folder, not a space file")])
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        near = nearest_file(name, "space") or nearest(path.stem, presets)
        hint = f"{near} {known}".strip() + ("" if near else f"; nas init {name} writes one")
        raise UserError(f"can't read {name}", [Problem("space", name, "there is no such file", hint)])
    hint = f"{nearest(name, presets)} {known}".strip()
    problem = Problem("space", name, "is neither a file nor a preset", hint)
    raise UserError(f"there is no search space {name}", [problem])


def named_model(name_or_path: str | Path) -> str | None:
    """Return the folder or Hub id of the pretrained model that a space file names; None if it names none.

    A study's own file has a whole section `model` in its place, which needs no model to be read.
    """
    path = expand(name_or_path)
    data = load_yaml(path).data if recognise(path) == "space" else None
    model = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, str) and model.strip() else None


def parse_space(text: str, name: str = "<text>") -> SearchSpace:
    """Read and check a space from YAML text; messages use `name` as the file name.

    Raises:
        UserError: the text has problems.
    """
    return read_space(load_yaml(name, text=text), _name_of(Path(name)))


def _with_model(source: Source, model: ModelSection | None) -> Source:
    """Return the file with the section `model` at its end, in place of one or of a name that it may have.

    Raises:
        UserError: the space has no use for a model, or was written for another one.
    """
    if model is None:
        return source
    data = source.data if isinstance(source.data, dict) else {}
    if not is_pretrained(data):
        rule = "searches architectures that are trained from scratch, not replacements in a model"
        hint = "leave --model out, or search layers.mixer and layers.ffn as the preset pretrained does"
        raise UserError("can't search this space", [Problem("space", source.name, rule, hint)])
    if "model" in data and not isinstance(data["model"], str):
        known = data["model"].get("weights") if isinstance(data["model"], dict) else None
        if known != model.weights:
            rule = f"is for a model of weights {known}, not {model.weights}"
            problem = Problem("model", model.name, rule, "remove the section model from the file")
            raise UserError("can't search this space", [problem])
        return source
    section = yaml.safe_dump({"model": model.to_dict()}, sort_keys=False, default_flow_style=None, width=110)
    return load_yaml(source.name, text=f"{_without_model(source.text).rstrip()}\n\n{section}")


def _without_model(text: str) -> str:
    """Return a space's text without its entry `model`, whose lines are left empty."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None, "a space"
    for key, value in root.value:
        if key.value == "model":
            start, end = key.start_mark.index, value.end_mark.index
            return text[:start] + "\n" * text[start:end].count("\n") + text[end:]
    return text


def _name_of(path: Path) -> str:
    stem = "".join(char if char.isalnum() or char in "._-" else "-" for char in path.stem).strip("-._")
    return stem or "space"


# A space is pickled as its text. The package imports this module, so this is always registered.
copyreg.pickle(SearchSpace, lambda space: (parse_space, (space.text, space.source)))
