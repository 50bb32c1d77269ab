"""Reading a space over a pretrained model: the model's section, and what each part may become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.replacements import KEEP, PARTS, Part, Replacement, Replacements
from surgery.architecture import Architecture
from surgery.architecture.rules import Rule
from surgery.config.backbone import FFN_PROJECTIONS, PROJECTIONS
from surgery.config.options import Cursor, Option
from surgery.config.problems import UserError, nearest
from surgery.config.quantities import parse_share
from surgery.config.selector import select_layers
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

FIELDS = {
    "layers.mixer": "what each layer's mixer may become",
    "layers.ffn": "what each layer's feed-forward network may become",
    "layers.keep": "layers that stay as they are, such as '0,-1'",
}
EXAMPLE = "such as {choice: [keep, G, {W: {window: 256, sinks: 4}}, none]}"
NONE = "none"
NO_MIXER = "N"  # letter of the mixer that adds nothing
_MULTIPLE = 8  # sizes given as shares are rounded to a multiple of it
_DIM = Option(int, low=1, help="hidden width of the feed-forward network, or a share such as 75%")
_MODEL = ("name", "weights", "architecture")


@dataclass(frozen=True)
class ModelSection:
    """The pretrained model that a space is about.

    Attributes:
        name: the folder or Hub id, as given.
        weights: fingerprint of its weights.
        architecture: the model itself.
    """

    name: str
    weights: str
    architecture: Architecture

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the section `model`."""
        return {"name": self.name, "weights": self.weights, "architecture": self.architecture.to_dict()}


def is_pretrained(given: Mapping[str, Any]) -> bool:
    """Return whether the sections are those of a space over a pretrained model."""
    search = given.get("search")
    return "model" in given or (isinstance(search, dict) and any(name in FIELDS for name in search))


def read_model(data: object, cursor: Cursor) -> ModelSection | None:
    """Read the section `model`, which a search writes in place of a name; None after adding problems."""
    if data is None:
        rule = "is missing: this space says what the parts of a pretrained model may become"
        cursor.problem(None, rule, "name it: --model MODEL, or model: MODEL in the file")
        return None
    if isinstance(data, str):
        rule = "names a model that has to be read first"
        cursor.problem(data, rule, "in Python: load_space(FILE, model_section(MODEL))")
        return None
    given = cursor.mapping(data, _MODEL)
    texts = [given.get(name) for name in ("name", "weights")]
    for name, value in zip(_MODEL, texts, strict=False):
        if not isinstance(value, str):
            cursor.at(name).problem(value, "must be text")
    try:
        architecture = Architecture.from_dict(given.get("architecture"))
    except UserError as error:
        for problem in error.problems:
            cursor.at("architecture").problem(problem.value, f"{problem.field} {problem.rule}", problem.hint)
        return None
    return ModelSection(str(texts[0]), str(texts[1]), architecture)


def read_replacements(data: object, model: Architecture | None, cursor: Cursor) -> Replacements | None:
    """Read the section `search`; None after adding problems, or if the model is unknown."""
    given = cursor.mapping(data, FIELDS)
    indices: dict[tuple[str, str], int] = {}
    options = {
        part: _read_options(given.get(f"layers.{part}"), part, model, cursor.at(f"layers.{part}"), indices)
        for part in PARTS
    }
    if not any(len(items) > 1 for items in options.values()):
        cursor.problem(data, "nothing varies: no part has a replacement", EXAMPLE)
    if model is None:
        return None
    depth = len(model.layers)
    try:
        kept = select_layers(_selector(given["layers.keep"]), depth) if given.get("layers.keep") else ()
    except ValueError as error:
        cursor.at("layers.keep").problem(given["layers.keep"], str(error), "such as '0,-1'")
        kept = ()
    parts = tuple(
        Part(layer, part, items)
        for layer in range(depth) if layer not in kept
        for part, items in options.items() if len(items) > 1
    )  # fmt: skip
    if not parts and any(len(items) > 1 for items in options.values()):
        cursor.at("layers.keep").problem(given["layers.keep"], "keeps every layer", "leave some to replace")
    replacements = Replacements(model, parts)
    _check(replacements, indices, cursor)
    return replacements if parts else None


def _read_options(
    data: object, part: str, model: Architecture | None, cursor: Cursor, indices: dict[tuple[str, str], int]
) -> tuple[Replacement, ...]:
    """Return the options of a part, the first of which is to keep it; note their indices in `indices`."""
    keep = Replacement(part, KEEP)
    if data is None:
        return (keep,)
    items = data.get("choice") if isinstance(data, dict) else None
    if not isinstance(data, dict) or set(data) != {"choice"} or not isinstance(items, list):
        cursor.problem(data, "must be a choice of replacements", EXAMPLE)
        return (keep,)
    result = {KEEP: keep}
    for index, item in enumerate(items):
        here = cursor.at("choice", index)
        option = _read_option(item, part, model, here)
        if option is None or item == KEEP:
            continue
        if option.label in result and model is not None:  # sizes in shares are not known without it
            here.problem(item, f"is listed twice, as {option.label}", "remove one")
        result[option.label] = option
        indices[part, option.label] = index
    return tuple(result.values())


def _read_option(item: object, part: str, model: Architecture | None, cursor: Cursor) -> Replacement | None:
    if item == KEEP:
        return Replacement(part, KEEP)
    if item == NONE:
        letter, width = (NO_MIXER, None) if part == "mixer" else (None, 0)
        return Replacement(part, NONE, letter, {}, width)
    key, value = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
    if part == "mixer" and key in MIXERS:
        return _read_mixer(str(key), value, cursor)
    if part == "ffn" and key == "dim":
        return _read_width(value, model, cursor.at("dim"))
    if key in PROJECTION_OPERATORS and PROJECTION_OPERATORS[str(key)].options:
        return _read_operator(str(key), value, part, model, cursor)
    known = [KEEP, NONE, *(MIXERS if part == "mixer" else ("dim",))]
    known += [name for name, spec in PROJECTION_OPERATORS.items() if spec.options]
    hint = nearest(str(key), known) or f"known: {', '.join(known)}"
    cursor.problem(item, f"is not a replacement of a layer's {part}", hint)
    return None


def _read_mixer(letter: str, value: object, cursor: Cursor) -> Replacement | None:
    spec, before = MIXERS[letter], len(cursor.problems.entries)
    given = cursor.at(letter).mapping(value, tuple(spec.options))
    options = {}
    for name, item in given.items():
        try:
            options[name] = spec.options[name].read(item)
        except ValueError as error:
            cursor.at(letter, name).problem(item, str(error), spec.options[name].help)
    if len(cursor.problems.entries) > before:
        return None
    text = " ".join(
        [letter, *(f"{name}={_plain(options[name])}" for name in spec.options if name in options)]
    )
    return Replacement("mixer", text, letter, options)


def _read_width(value: object, model: Architecture | None, cursor: Cursor) -> Replacement | None:
    whole = model.backbone.ffn_dim if model is not None else None
    try:
        width = _DIM.read(_size(value, whole))
        if whole is not None and width > whole:
            raise ValueError(f"must be at most the model's {whole}")
    except ValueError as error:
        cursor.problem(value, str(error), _DIM.help)
        return None
    return Replacement("ffn", f"dim={width}", ffn_dim=width)


def _read_operator(
    operator: str, value: object, part: str, model: Architecture | None, cursor: Cursor
) -> Replacement | None:
    spec, before = PROJECTION_OPERATORS[operator], len(cursor.problems.entries)
    given = cursor.at(operator).mapping(value, ("match", *spec.options))
    whole = model.backbone.dim if model is not None else None
    for name, option in spec.options.items():
        if option.scales == "width" and name in given:
            try:
                given[name] = _size(given[name], whole)
            except ValueError as error:
                cursor.at(operator, name).problem(given.pop(name), str(error), option.help)
    rule = Rule.read({**given, "operator": operator}, cursor.at(operator))
    own = [name for name in PROJECTIONS if (name in FFN_PROJECTIONS) == (part == "ffn")]
    if rule is not None and not set(rule.match) <= set(own):
        wrong = ", ".join(name for name in rule.match if name not in own)
        cursor.at(operator, "match").problem(wrong, f"is not in a layer's {part}", f"out of {', '.join(own)}")
    if rule is None or len(cursor.problems.entries) > before:
        return None
    label = f"{operator} {','.join(rule.match)} {spec.short(rule.options)}"
    return Replacement(part, label, rules=(rule,))


def _check(replacements: Replacements, indices: Mapping[tuple[str, str], int], cursor: Cursor) -> None:
    """Add a problem for every replacement that does not fit the model.

    Args:
        replacements: the options.
        indices: index in the file by (part, label).
        cursor: position of the section.
    """
    for (part, label), index in indices.items():
        try:
            replacements.uniform(part, label)
        except UserError as error:
            here = cursor.at(f"layers.{part}", "choice", index)
            for problem in error.problems:
                here.problem(label, f"{problem.field} {problem.rule}", problem.hint)


def _size(value: object, whole: int | None) -> object:
    """Return a size; a share such as `25%` is taken of `whole`, and is 8 while that is unknown."""
    share = parse_share(value)
    if share is None:
        return value
    if not 0 < share <= 1:
        raise ValueError("must be a share above 0 % and at most 100 %")
    return max(_MULTIPLE, round(share * (whole or 0) / _MULTIPLE) * _MULTIPLE)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _selector(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
