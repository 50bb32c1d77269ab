"""The dense Llama-style backbone that every candidate is derived from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any

from surgery.config.options import Cursor, Option, read_options
from surgery.config.problems import nearest
from surgery.config.rope_scaling import read_rope_scaling
from surgery.config.selector import select_layers, write_layers

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
FFN_PROJECTIONS = ("gate", "up", "down")
MAX_LAYERS = 4096
_SELECTORS = ("no_rope_layers", "pre_norm_layers")


def _about(
    kind: type | None = None, help: str = "", transformers: str = "", *, written: bool = True, **limits: Any
) -> dict[str, Any]:
    """Return the metadata of a field.

    Args:
        kind: type of a field that is a single value in a file.
        help: meaning and unit.
        transformers: name of the field in transformers' configurations.
        written: write the field into files at its default too.
        limits: of `Option`; a `default` only for what is derived from other fields.
    """
    option = None if kind is None else Option(kind, help=help, **limits)
    return {"option": option, "transformers": transformers, "written": written}


@dataclass(frozen=True)
class Backbone:
    """Sizes of a Llama-style decoder: pre-norm RMSNorm, rotary attention, SwiGLU.

    The order of the fields is that in files and part of the digests of search spaces.
    """

    vocab_size: int = field(metadata=_about(int, "tokens in the vocabulary", "vocab_size", low=1))
    dim: int = field(metadata=_about(int, "width of the residual stream", "hidden_size", low=1))
    num_layers: int = field(
        metadata=_about(int, "physical layers", "num_hidden_layers", low=1, high=MAX_LAYERS)
    )
    num_heads: int = field(metadata=_about(int, "query heads", "num_attention_heads", low=1))
    num_kv_heads: int = field(
        metadata=_about(int, "key/value heads, default num_heads", "num_key_value_heads", low=1, default=None)
    )
    head_dim: int = field(
        metadata=_about(int, "width of a head, default dim / num_heads", "head_dim", low=2, default=None)
    )
    ffn_dim: int = field(metadata=_about(int, "hidden width of the SwiGLU", "intermediate_size", low=1))
    rope_theta: float = field(
        default=10000.0, metadata=_about(float, "base of the rotary angles", low=1, high=1e12)
    )
    norm_eps: float = field(
        default=1e-6, metadata=_about(float, "epsilon of RMSNorm", "rms_norm_eps", low=0, high=0.1)
    )
    tie_embeddings: bool = field(
        default=False, metadata=_about(bool, "head shares the embedding's weights", "tie_word_embeddings")
    )
    qk_norm: bool = field(
        default=False, metadata=_about(bool, "RMSNorm on each query and key head", written=False)
    )
    joint_qk_norm: bool = field(
        default=False,
        metadata=_about(bool, "qk_norm over all heads of a token together, as in OLMo-2", written=False),
    )
    post_norm: bool = field(
        default=False,
        metadata=_about(bool, "norms after mixer and SwiGLU instead of before, as in OLMo-2", written=False),
    )
    pre_norm_layers: str = field(
        default="",
        metadata=_about(str, "layers that post_norm spares, such as 0-2, as in OLMo-Hybrid", written=False),
    )
    no_rope_layers: str = field(
        default="",
        metadata=_about(str, "layers without rotary embeddings, such as 3::4, as in SmolLM3", written=False),
    )
    biases: tuple[str, ...] = field(default=(), metadata=_about(written=False))
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False, metadata=_about(written=False))
    max_position_embeddings: int = field(
        default=4096,
        metadata=_about(
            int, "tokens; written to the exported config", "max_position_embeddings", written=False, low=1
        ),
    )

    @classmethod
    def read(cls, data: object, cursor: Cursor) -> Backbone | None:
        """Read a backbone from a mapping; errors are added to the cursor's problems, and give None."""
        before = len(cursor.problems.entries)
        given = cursor.mapping(data, tuple(item.name for item in fields(cls)))
        values = read_options({key: value for key, value in given.items() if key in OPTIONS}, OPTIONS, cursor)
        values["biases"] = _read_biases(given.get("biases", ()), cursor.at("biases"))
        values["rope_scaling"] = read_rope_scaling(given.get("rope_scaling"), cursor.at("rope_scaling"))
        if len(cursor.problems.entries) > before:
            return None
        _fill_heads(values, cursor)
        for name in _SELECTORS:
            _check_selector(name, values, cursor)
        return cls(**values) if len(cursor.problems.entries) == before else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML, without the optional fields that are at their defaults."""
        data = asdict(self)
        data["biases"] = list(self.biases)
        data["rope_scaling"] = dict(self.rope_scaling) if self.rope_scaling else None
        return {
            item.name: data[item.name]
            for item in fields(self)
            if item.metadata["written"] or data[item.name] not in (item.default, [])
        }

    def layers_without_rope(self, depth: int) -> tuple[int, ...]:
        """Return the layers of a stack of `depth` without rotary embeddings, of those that exist there."""
        return _existing(self.no_rope_layers, depth)

    def layers_with_post_norm(self, depth: int) -> tuple[int, ...]:
        """Return the layers of a stack of `depth` whose norms stand after mixer and SwiGLU."""
        spared = _existing(self.pre_norm_layers, depth)
        return tuple(layer for layer in range(depth) if self.post_norm and layer not in spared)

    def first_layers(self, depth: int) -> Backbone:
        """Return the backbone of the first `depth` layers."""
        selectors: dict[str, Any] = {
            name: write_layers(_existing(getattr(self, name), depth), depth + 1) for name in _SELECTORS
        }
        return replace(self, num_layers=depth, **selectors)

    def sizes(self, projection: str) -> tuple[int, int]:
        """Return (inputs, outputs) of a feed-forward projection."""
        return (self.ffn_dim, self.dim) if projection == "down" else (self.dim, self.ffn_dim)


def _with_default(item: Field[Any]) -> Option:
    option: Option = item.metadata["option"]
    return option if item.default is MISSING else replace(option, default=item.default)


OPTIONS = {item.name: _with_default(item) for item in fields(Backbone) if item.metadata["option"]}
DERIVED_SIZES = tuple(name for name, option in OPTIONS.items() if option.default is None)  # where left out
TRANSFORMERS_NAMES = {
    item.metadata["transformers"]: item.name for item in fields(Backbone) if item.metadata["transformers"]
}  # field of a configuration -> field of the backbone


def _existing(selector: str, depth: int) -> tuple[int, ...]:
    """Return the layers of a selector that exist in a stack of `depth`, perhaps shallower than its own."""
    return tuple(layer for layer in select_layers(selector, MAX_LAYERS) if layer < depth) if selector else ()


def _fill_heads(values: dict[str, Any], cursor: Cursor) -> None:
    """Fill in defaults that depend on other fields, and check rules between fields."""
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    if values["num_heads"] % values["num_kv_heads"]:
        cursor.at("num_kv_heads").problem(
            values["num_kv_heads"], f"must divide num_heads ({values['num_heads']})"
        )
    if values["head_dim"] is None:
        if values["dim"] % values["num_heads"]:
            cursor.at("num_heads").problem(
                values["num_heads"], f"must divide dim ({values['dim']})", "or give head_dim yourself"
            )
        values["head_dim"] = max(1, values["dim"] // values["num_heads"])
    if values["joint_qk_norm"] and not values["qk_norm"]:
        cursor.at("joint_qk_norm").problem(True, "has no effect without qk_norm", "set qk_norm: true")
    if values["pre_norm_layers"] and not values["post_norm"]:
        cursor.at("pre_norm_layers").problem(
            values["pre_norm_layers"], "has no effect without post_norm", "set post_norm: true"
        )
    if values["head_dim"] % 2:
        cursor.at("head_dim").problem(values["head_dim"], "must be even", "rotary pairs channels")


def _check_selector(name: str, values: dict[str, Any], cursor: Cursor) -> None:
    """Check a selector of layers, and write it as all spellings of the same layers are written."""
    text, depth = values[name], values["num_layers"]
    if not text:
        return
    try:
        values[name] = write_layers(select_layers(text, depth), depth + 1)
    except ValueError as error:
        cursor.at(name).problem(text, str(error))


def _read_biases(value: object, cursor: Cursor) -> tuple[str, ...]:
    names = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if value == "all":
        names = list(PROJECTIONS)
    for name in names:
        if name not in PROJECTIONS:
            hint = nearest(str(name), PROJECTIONS)
            cursor.problem(name, f"must list projections out of {', '.join(PROJECTIONS)}", hint)
    return tuple(name for name in PROJECTIONS if name in names)
