"""An architecture: backbone, layout, projection rules and loop; immutable, read from and written to YAML."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.architecture.layer_rules import LayerOptions, LayerRule
from surgery.architecture.layers import Layer, count_matches, resolve_layers
from surgery.architecture.layout import shortest_period, tile
from surgery.architecture.naming import summarize
from surgery.architecture.reading import check_fit, read_parts
from surgery.architecture.rules import Rule
from surgery.config.backbone import Backbone
from surgery.config.options import Cursor
from surgery.config.problems import Problems
from surgery.config.recognise import refuse_other
from surgery.config.rope_scaling import canonical_rope_scaling
from surgery.config.selector import select_span, write_layers
from surgery.config.yaml_source import KeyPath, Source, load_yaml
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS


@dataclass(frozen=True, eq=False)
class Architecture:
    """A complete, buildable model. Two spellings of the same model are equal and have the same hash."""

    backbone: Backbone
    layout: str = "F"
    mixers: Mapping[str, LayerOptions] = field(default_factory=dict)  # of all layers of a letter, or by rules
    rules: tuple[Rule, ...] = ()
    loop_count: int = 1
    loop_windows: tuple[int | None, ...] = ()  # tokens attention sees in each pass; None: all; (): all passes
    ffn: tuple[LayerRule, ...] = ()  # widths of feed-forward parts other than the backbone's
    loop_span: str | None = None  # layers that the passes repeat, such as `2-5`; None: all
    loop_inject: bool = False  # later passes also see what the first one saw
    loop_delta_rank: int = 0  # rank of what later passes change in each projection; 0: nothing

    def __post_init__(self) -> None:
        assert len(self.loop_windows) in (0, self.loop_count), "checked where the architecture is read"
        object.__setattr__(self, "layout", tile(self.layout, self.backbone.num_layers))

    @classmethod
    def from_dict(
        cls,
        data: object,
        *,
        source: Source | None = None,
        path: KeyPath = (),
        backbone: Backbone | None = None,
    ) -> Architecture:
        """Build an architecture from plain data.

        Args:
            data: mapping with the keys `FIELDS` of `reading.py`.
            source: parsed file of the data, for line numbers in messages.
            path: position of the data in that file.
            backbone: used if the data has none.

        Raises:
            UserError: lists every problem of the data with line, field, value and rule.
        """
        problems = Problems()
        cursor = Cursor(problems, source, path)
        parts = read_parts(data, cursor, backbone)
        architecture = cls(*parts) if parts is not None else None
        if architecture is not None:  # also if there are other problems: all are reported together
            check_fit(architecture, cursor)
        name = source.name if source else "architecture"
        problems.raise_if_any(f"{name}: not a valid architecture")
        assert architecture is not None
        return architecture

    @classmethod
    def from_yaml(cls, path: str | Path, *, backbone: Backbone | None = None) -> Architecture:
        """Read an architecture file.

        Raises:
            UserError: unreadable, not YAML, something else than an architecture, or not a valid one.
        """
        refuse_other(path, "architecture", *(("design",) if backbone is not None else ()))
        source = load_yaml(path)
        return cls.from_dict(source.data, source=source, backbone=backbone)

    def with_backbone(self, **changes: Any) -> Architecture:
        """Return the architecture with these fields of its backbone changed; nothing is checked again."""
        return replace(self, backbone=replace(self.backbone, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` builds an equal architecture."""
        data: dict[str, Any] = {"backbone": self.backbone.to_dict(), "layout": self.layout}
        if any(self.mixers.values()):
            data["mixers"] = {
                letter: [rule.to_dict() for rule in options] if isinstance(options, tuple) else dict(options)
                for letter, options in self.mixers.items()
            }
        if self.ffn:
            data["ffn"] = [rule.to_dict() for rule in self.ffn]
        data["projections"] = [rule.to_dict() for rule in self.rules]
        data["loop"] = {"count": self.loop_count}
        if self.loop_windows:
            data["loop"]["windows"] = [size or "full" for size in self.loop_windows]
        if self.loop_span is not None:
            data["loop"]["span"] = self.loop_span
        if self.loop_inject:
            data["loop"]["inject"] = True
        if self.loop_delta_rank:
            data["loop"]["delta_rank"] = self.loop_delta_rank
        return data

    def to_yaml(self, *, tried_on: int | None = None, width: int = 110) -> str:
        """Return the YAML text.

        Args:
            tried_on: context length in tokens that the architecture was tried on. The text is then a design
                for a model of any size: instead of a backbone it has the sizes that the others scale with.
            width: column after which a line is broken.
        """
        import yaml

        data = self.to_dict()
        if tried_on is not None:
            del data["backbone"]
            data["designed_for"] = {"dim": self.backbone.dim, "context": tried_on}
            data["layout"] = shortest_period(self.layout)
        return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=width)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Physical layers from bottom to top with every rule applied; equal layers are the same object."""
        return resolve_layers(self.backbone, self.layout, self.mixers, self.rules, self.ffn)

    @cached_property
    def kinds(self) -> tuple[tuple[Layer, int], ...]:
        """Distinct layers, each with its number of occurrences."""
        by_id = {id(layer): layer for layer in self.layers}
        return tuple((by_id[key], count) for key, count in Counter(map(id, self.layers)).items())

    @cached_property
    def looped(self) -> range:
        """The layers that passes repeat: the span. Before it is the prelude, behind it the coda."""
        depth = self.backbone.num_layers
        return range(depth) if self.loop_count == 1 else select_span(self.loop_span, depth)

    @property
    def delta_rank(self) -> int:
        """Rank of what later passes change in each projection of the span; 0 without a loop."""
        return self.loop_delta_rank if self.loop_count > 1 else 0

    @cached_property
    def executed(self) -> tuple[tuple[Layer, bool, int], ...]:
        """Distinct layers in the span and outside of it: (layer, whether in the span, occurrences)."""
        by_id = {id(layer): layer for layer in self.layers}
        counts = Counter((id(layer), index in self.looped) for index, layer in enumerate(self.layers))
        return tuple((by_id[key], looped, count) for (key, looped), count in counts.items())

    @property
    def depth(self) -> int:
        """Layers that a token runs through, each as often as it does."""
        return self.backbone.num_layers + (self.loop_count - 1) * len(self.looped)

    @cached_property
    def figures(self) -> dict[str, int]:
        """Cache of computed costs by name (`surgery.architecture.costs`)."""
        return {}

    @cached_property
    def hash(self) -> str:
        """First 10 hex digits of the canonical form's SHA-256."""
        text = json.dumps(self.canonical(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def canonical(self) -> dict[str, Any]:
        """Return the model's canonical form: equal for all spellings, without options that have no effect."""
        shared = self.shared_sizes()
        backbone = shared.to_dict()
        backbone.pop("max_position_embeddings", None)  # metadata of the export, not part of the model
        backbone["rope_scaling"] = canonical_rope_scaling(self.backbone.rope_scaling)
        kinds = {id(layer): self._canonical_layer(layer, shared) for layer, _ in self.kinds}
        layers = [kinds[id(layer)] for layer in self.layers]
        canonical = {"backbone": backbone, "layers": layers, "loop": self.loop_count}
        if any(self.loop_windows) and any(MIXERS[layer.mixer].windowed for layer, _ in self.kinds):
            canonical["windows"] = list(self.loop_windows)
        if len(self.looped) < len(self.layers):
            canonical["span"] = [self.looped[0], self.looped[-1]]
        if self.loop_inject and self.loop_count > 1:
            canonical["inject"] = True
        if self.delta_rank:
            canonical["delta_rank"] = self.delta_rank
        return canonical

    def _canonical_layer(self, layer: Layer, shared: Backbone) -> dict[str, Any]:
        """Return a layer's canonical form, without the sizes that are those of `shared`."""
        spec, options = MIXERS[layer.mixer], dict(layer.mixer_options)
        if "kv_heads" in options:
            options["kv_heads"] = spec.kv_heads(self.backbone, options)
        return {
            "mixer": layer.mixer,
            "options": spec.canonical(shared, options),
            "projections": {
                name: {"operator": item.name, **PROJECTION_OPERATORS[item.name].canonical(item.options)}
                for name, item in layer.projections.items()
            },
            **({} if layer.ffn_dim == shared.ffn_dim else {"ffn": layer.ffn_dim}),
        }

    def shared_sizes(self) -> Backbone:
        """Return the backbone with the largest of each size that layers set themselves, if all of them do.

        So it does not matter whether a size stands in the backbone or in rules. A layer that depends on the
        backbone's size keeps it.
        """
        attention = [layer for layer, _ in self.kinds if MIXERS[layer.mixer].mixes]
        heads = [MIXERS[layer.mixer].kv_heads(self.backbone, layer.mixer_options) for layer in attention]
        known = [count for count in heads if count is not None]
        return replace(
            self.backbone,
            ffn_dim=max(layer.ffn_dim for layer, _ in self.kinds),
            num_kv_heads=max(known) if known and len(known) == len(heads) else self.backbone.num_kv_heads,
        )

    def window(self, loop: int) -> int | None:
        """Return the tokens that attention sees in this loop pass, including the token itself; None: all."""
        return self.loop_windows[loop] if self.loop_windows else None

    def windows(self, *, looped: bool) -> list[int | None]:
        """Return the tokens that attention sees in each pass of a layer, which is one outside of the span."""
        return [self.window(loop) for loop in range(self.loop_count)] if looped else [None]

    def pass_options(self, layer: Layer, *, looped: bool) -> list[Mapping[str, Any]]:
        """Return the effective options of a layer's mixer in each pass, one if it is outside of the span."""
        spec = MIXERS[layer.mixer]
        return [spec.in_pass(layer.mixer_options, window) for window in self.windows(looped=looped)]

    @property
    def loop_mark(self) -> str:
        """The loop for pictures, such as `×2` or `×2 @2-5`; empty without one."""
        if self.loop_count == 1:
            return ""
        return f"×{self.loop_count}" + ("" if self.loop_place is None else f" @{self.loop_place}")

    @property
    def loop_place(self) -> str | None:
        """The span as a selector of layers; None if it is the whole stack."""
        return write_layers(tuple(self.looped), self.backbone.num_layers)

    @cached_property
    def line(self) -> str:
        """One-line summary, such as `FFFF·hdpl[qkv,gu] b8 r128·loop 2`."""
        loop = ""
        if self.loop_count > 1:
            sizes = "-".join(str(size or "full") for size in self.loop_windows)
            loop = f"loop {self.loop_count}" + ("" if self.loop_place is None else f"@{self.loop_place}")
            loop += (f" w{sizes}" if sizes else "") + (" inject" if self.loop_inject else "")
            loop += f" delta {self.delta_rank}" if self.delta_rank else ""
        return summarize(self.layout, self.layers, loop, self.backbone)

    def warnings(self) -> list[str]:
        """Return a warning per option that can have no effect, without duplicates."""
        operators = (
            f"{item.name}: {text}"
            for layer in self.layers
            for item in layer.projections.values()
            if (text := PROJECTION_OPERATORS[item.name].warning(item.options))
        )
        mixers = (
            f"{layer.mixer}: {text}"
            for layer in self.layers
            if (text := MIXERS[layer.mixer].warning(layer.mixer_options))
        )
        return list(dict.fromkeys((*operators, *mixers)))

    def rule_matches(self) -> list[int]:
        """Return the number of projections that each rule decides, over all layers."""
        return count_matches(self.rules, self.layers)

    def __str__(self) -> str:
        return self.line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)
