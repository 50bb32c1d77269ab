"""The parts of an architecture whose times add up to the model's: mixers, feed-forward parts and the rest.

Two parts with the same name take the same time on a device, so that each is timed once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgery.architecture.architecture import Architecture
from surgery.architecture.layers import Layer, Operator
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

MIXER, FFN, REST = "mixer", "ffn", "rest"
_MIXER_SIZES = ("dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "qk_norm", "joint_qk_norm")
_FFN_SIZES = ("dim", "num_layers")
MOST_PASSES = 4  # of a mixer that are timed
_REST_SIZES = ("dim", "num_layers", "vocab_size", "tie_embeddings")


@dataclass(frozen=True, eq=False)
class TimedPart:
    """A part with its norm and residual addition.

    Attributes:
        kind: `mixer`, `ffn`, or `rest`: the model without these, its embedding, last norm and head.
        layer: with this part; None for the rest.
        window: tokens that attention sees in this loop pass; None: all.
        passes: loop passes: all of them for the rest, which has their gates; for a mixer, which has states in
            each, rounded up to a power of two and at most `MOST_PASSES`.
    """

    kind: str
    backbone: Backbone
    layer: Layer | None = None
    window: int | None = None
    passes: int = 1

    @property
    def weights_beside(self) -> int:
        """Weights of the dense model, rounded to three binary digits.

        While a part is executed, a device's caches hold all of them, some or none, so that its time depends
        on them.
        """
        sizes = self.backbone
        heads = 2 * (sizes.num_heads + sizes.num_kv_heads) * sizes.head_dim
        rows = sizes.num_layers * (heads + 3 * sizes.ffn_dim)
        rows += sizes.vocab_size * (1 if sizes.tie_embeddings else 2)
        step = 1 << max(0, (sizes.dim * rows).bit_length() - 3)
        return max(1, round(sizes.dim * rows / step)) * step

    @property
    def depends_on_context(self) -> bool:
        """Return whether decoding may take longer after more tokens."""
        return self.kind == MIXER

    @cached_property
    def name(self) -> str:
        """Name by all that the time depends on, such as `mixer.5f0c94d1a2`."""
        text = json.dumps(self._description(), sort_keys=True)
        return f"{self.kind}.{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @cached_property
    def label(self) -> str:
        """Short description for messages, such as `W window=256`; it need not be unique."""
        if self.layer is None:
            return "embedding, last norm and head"
        if self.kind == FFN:
            return f"ffn {self.layer.ffn_dim}{self._operators()}"
        spec = MIXERS[self.layer.mixer]
        options = spec.in_pass(self.layer.mixer_options, self.window)
        defaults = {name: option.default for name, option in spec.options.items()}
        given = [f"{name}={value}" for name, value in options.items() if value != defaults.get(name)]
        return " ".join([self.layer.mixer, *given]) + self._operators()

    @property
    def projections(self) -> dict[str, Operator]:
        """The projections of the part."""
        assert self.layer is not None, "the rest has none"
        items = self.layer.projections.items()
        return {name: item for name, item in items if (name in FFN_PROJECTIONS) == (self.kind == FFN)}

    def _operators(self) -> str:
        """Return the part's operators that are not dense, each once, with a space before."""
        shorts = {
            f"{item.name} {PROJECTION_OPERATORS[item.name].short(item.options)}"
            for item in self.projections.values()
            if item.options
        }
        return "".join(f" {text}" for text in sorted(shorts))

    def _description(self) -> dict[str, Any]:
        if self.layer is None:
            return {**self._sizes(_REST_SIZES), "passes": self.passes}
        sizes = self._sizes(_FFN_SIZES if self.kind == FFN else _MIXER_SIZES)
        data = {
            **sizes,
            "beside": self.weights_beside,
            "post_norm": self.layer.post_norm,
            "projections": self._described_projections(),
        }
        if self.kind == MIXER:
            data |= {"rotary": self.layer.rotary, "mixer": self._described_mixer(self.layer)}
            data["passes"] = self.passes
        return data

    def _sizes(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self.backbone, name) for name in names}

    def _described_projections(self) -> dict[str, Any]:
        result = {}
        for name, item in self.projections.items():
            spec = PROJECTION_OPERATORS[item.name]
            options = {key: value for key, value in item.options.items() if key not in spec.training_only}
            result[name] = [item.name, item.d_in, item.d_out, item.bias, options]
        return result

    def _described_mixer(self, layer: Layer) -> list[Any]:
        spec = MIXERS[layer.mixer]
        options = dict(spec.in_pass(layer.mixer_options, self.window))
        if "kv_heads" in options:  # 0 is the backbone's number
            options["kv_heads"] = spec.kv_heads(self.backbone, options)
        options = spec.canonical(self.backbone, options)
        return [layer.mixer, {key: value for key, value in options.items() if key not in spec.training_only}]


def timed_parts(architecture: Architecture) -> list[tuple[TimedPart, int]]:
    """Return the parts of an architecture, each with how often a forward pass executes it."""
    backbone, passes = architecture.backbone, architecture.loop_count
    parts = Counter({TimedPart(REST, backbone, passes=passes): 1})
    ffns: Counter[int] = Counter()  # executions by layer: those in the span and outside of it are alike
    for layer, looped, count in architecture.executed:
        windows = Counter(architecture.windows(looped=looped))
        own = windows.total()
        timed_passes = min(MOST_PASSES, 1 << (own - 1).bit_length())
        if MIXERS[layer.mixer].mixes:
            seen = windows if MIXERS[layer.mixer].windowed else {None: own}
            for window, times in seen.items():
                parts[TimedPart(MIXER, backbone, layer, window, timed_passes)] += count * times
        ffns[id(layer)] += count * own
    for layer, _ in architecture.kinds:
        if layer.ffn_dim:
            parts[TimedPart(FFN, backbone, layer)] += ffns[id(layer)]
    return list(parts.items())
