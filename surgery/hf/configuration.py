"""The config.json of our models: an architecture, and fields derived from it for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.configuration_utils import ALLOWED_LAYER_TYPES

from surgery.architecture import Architecture
from surgery.config.backbone import TRANSFORMERS_NAMES, Backbone
from surgery.config.problems import Problems, nearest
from surgery.mixers import MIXERS

MODEL_TYPE = "nas_hybrid"
AUTO_MAP = {
    "AutoConfig": "modeling_nas.NasConfig",
    "AutoModelForCausalLM": "modeling_nas.NasForCausalLM",
}

# Derived from the architecture: written to config.json for other tools, and only compared when read. Names of
# layer types change between versions of transformers, and are not compared.
_DERIVED = (*TRANSFORMERS_NAMES, "layer_types")

# fields of config.json that transformers reads, although they are not attributes of its config class
_OF_TRANSFORMERS = (
    "model_type", "auto_map", "attn_implementation", "experts_implementation", "output_attentions",
    "torch_dtype", "name_or_path", "num_labels", "per_layer_config", "quantization_config",
    "custom_pipelines", "transformers_weights", "tie_encoder_decoder", "is_decoder", "add_cross_attention",
)  # fmt: skip

_OLD_LAYER_TYPES = {"indexed_attention": "deepseek_sparse_attention"}  # before transformers 5.23

# used when transformers builds a config without arguments to determine the defaults
_SMALLEST = Backbone(vocab_size=2, dim=2, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2, ffn_dim=2)


class NasConfig(PreTrainedConfig):
    """Configuration of `NasForCausalLM`.

    Args:
        architecture: the architecture as plain data (`Architecture.to_dict`); the only source of the sizes.
        bos_token_id, eos_token_id, pad_token_id: special tokens, for `generate`.
        use_cache: whether a forward pass in evaluation returns a decoding cache.

    Raises:
        UserError: the architecture is invalid, a field is unknown to this class and to transformers, or a
            size differs from the architecture's.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        *,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        derived = {name: kwargs.pop(name) for name in _DERIVED if name in kwargs}
        _refuse_unknown(kwargs)
        built = Architecture(_SMALLEST) if architecture is None else Architecture.from_dict(architecture)
        self._set_architecture(built)
        self._refuse_contradictions(derived)
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.use_cache = use_cache
        kwargs["auto_map"] = dict(AUTO_MAP)  # older models named another file
        super().__init__(**kwargs)

    def build_architecture(self) -> Architecture:
        """Build the architecture that this configuration describes.

        Raises:
            UserError: a size was changed without the architecture, which alone determines the model.
        """
        self._refuse_contradictions({name: getattr(self, name) for name in _DERIVED})
        return Architecture.from_dict(self.architecture)

    def set_vocab_size(self, size: int) -> None:
        """Set the vocabulary size of the architecture, after the embedding was resized."""
        self._set_architecture(Architecture.from_dict(self.architecture).with_backbone(vocab_size=size))

    def _set_architecture(self, built: Architecture) -> None:
        backbone = built.backbone
        self.architecture = built.to_dict()
        for name, field in TRANSFORMERS_NAMES.items():
            setattr(self, name, getattr(backbone, field))
        words = [MIXERS[letter].layer_type for letter in built.layout]
        self.layer_types = [w if w in ALLOWED_LAYER_TYPES else _OLD_LAYER_TYPES.get(w, w) for w in words]

    def _refuse_contradictions(self, derived: Mapping[str, Any]) -> None:
        backbone = Architecture.from_dict(self.architecture).backbone
        problems = Problems()
        for name, field in TRANSFORMERS_NAMES.items():
            if name in derived and derived[name] != getattr(backbone, field):
                rule = f"must be {getattr(backbone, field)}, as the field `architecture` says"
                problems.add(name, derived[name], rule, "apply another architecture to change the model")
        problems.raise_if_any("the configuration contradicts itself")


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    """Raise on unknown fields, which transformers would silently store as attributes.

    Names with an underscore are transformers' own; defaults of generation, common in old models, are
    accepted, and it removes them.
    """
    known = {
        *PreTrainedConfig.__dataclass_fields__, *_OF_TRANSFORMERS,
        *GenerationConfig._get_default_generation_params(),
    }  # fmt: skip
    ours = ("architecture", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
    problems = Problems()
    for name, value in fields.items():
        if name not in known and not name.startswith("_"):
            problems.add(name, value, "is no field of this configuration", nearest(name, {*known, *ours}))
    if fields.get("per_layer_config"):
        rule = "must be left out: the field `architecture` has the sizes of every layer"
        problems.add("per_layer_config", fields["per_layer_config"], rule)
    problems.raise_if_any("can't read the configuration")
