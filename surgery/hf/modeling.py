"""`HybridLM` as a transformers causal LM: labels and loss, decoding cache, `generate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from surgery.context import DecodeCache
from surgery.hf.configuration import NasConfig
from surgery.hf.generation import OF_GENERATE, check_generation, setting
from surgery.hf.inputs import (
    CACHE_FIELD,
    check_inputs,
    given_cache,
    kept_positions,
    loss_arguments,
    refuse_cache,
    share_of_batch,
)
from surgery.model import Block, HybridLM

_RUNS_FROM_PACKAGE = __name__ == "surgery.hf.modeling"  # else this is a copy next to a checkpoint


class NasForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM of any `nas` architecture; `model` is the `HybridLM`. Deterministic in evaluation.

    The cache is a `DecodeCache`, created by the forward pass; transformers' own cache classes support neither
    loops nor recurrent states and are refused. Attention maps are not recorded.
    """

    config_class = NasConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"model.head.weight": "model.embed.weight"}
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _is_stateful = True  # states can't be rolled back: transformers refuses assisted generation
    _skip_keys_device_placement = ["past_key_values", "cache"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the Trainer's count of the tokens of all accumulated batches

    def __init__(self, config: NasConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # orthogonal initialisation is not available in half precision
        try:
            self.model = HybridLM(config.build_architecture())
        finally:
            torch.set_default_dtype(dtype)
        self.model.to(dtype)
        self.post_init()
        # for label smoothing the Trainer shifts labels only of causal models, which it recognises by name
        names = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        names.setdefault(config.model_type, type(self).__name__)

    @classmethod
    def wrap(cls, model: HybridLM, config: NasConfig) -> NasForCausalLM:
        """Wrap the given model, without copying it."""
        with torch.device("meta"):
            wrapped = cls(config)
        wrapped.model = model
        wrapped.train(model.training)
        return wrapped

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, but raise on missing tensors instead of initialising them.

        Raises:
            ValueError: lists all missing or mismatched tensors.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        missing += sorted(f"{item[0]} (wrong shape)" for item in info["mismatched_keys"])
        if missing:
            raise ValueError(f"{source}: the checkpoint lacks {len(missing)} tensors: {', '.join(missing)}")
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model as in transformers, with its source next to the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if _RUNS_FROM_PACKAGE:  # imported by name, so that `remote_code` itself is not exported
            import_module("surgery.hf.remote_code").write_remote_code(save_directory)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        cache: Any = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Compute logits (batch, kept tokens, vocabulary).

        Args:
            input_ids: (batch, new tokens).
            attention_mask: (batch, cached + new tokens), 1 at real tokens; padding may be anywhere.
            position_ids: (batch or 1, new tokens). Without cache and mask they must not restart within a row:
                transformers would interpret that as several texts that do not see each other.
            past_key_values, cache: the `DecodeCache` of an earlier pass, extended in place. transformers
                called it `past_key_values` before 5.24 and `cache` since; both are accepted.
            inputs_embeds: (batch, new tokens, width), instead of `input_ids`.
            labels: as `input_ids`, -100 at ignored tokens. In training mode the loss includes the auxiliary
                losses of the operators.
            use_cache: return a cache; by default in evaluation, as configured.
            logits_to_keep: number of last positions to keep (0: all), or the positions to keep.
            return_dict: return an output object instead of a tuple; by default as configured.
            output_hidden_states: return the input of every layer and the normed output of the last, for a
                looped model of every pass.
            kwargs: `num_items_in_batch`, `ignore_index` and `shift_labels` are passed to the loss.

        Raises:
            ValueError: neither or both of the inputs are given, or a cache, an output or an argument that is
                not supported.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        of_loss = loss_arguments({"output_attentions": self.config.output_attentions, **kwargs})
        cache = given_cache(past_key_values, cache)
        check_inputs(attention_mask, position_ids, cache)
        if self._checkpoints():
            use_cache = refuse_cache(cache, use_cache)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DecodeCache()
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        auxiliary: list[Tensor] = []
        states: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.model(
            input_ids,
            attention_mask=attention_mask,
            positions=position_ids,
            cache=cache,
            losses=auxiliary,
            embeddings=inputs_embeds,
            states=states,
        )
        logits = self.model.head(kept_positions(hidden, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **of_loss)
            if auxiliary:
                loss = loss + torch.stack(auxiliary).sum() * share_of_batch(labels, **of_loss)
        recorded = (*states, hidden) if states is not None else None
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=recorded, **{CACHE_FIELD: cache}
        )
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else cast("tuple[Any, ...]", output.to_tuple())

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as in transformers; unsupported options raise (see `surgery.hf.generation`).

        Raises:
            UserError: unsupported options in the call or in a generation config.
        """
        config = args[1] if len(args) > 1 else kwargs.get("generation_config")
        check_generation(kwargs, config, self.generation_config)
        configs = (config, self.generation_config)
        cached = setting("use_cache", kwargs, *configs) is not False
        given = kwargs.get("past_key_values") or kwargs.get("cache")
        if cached and not given and setting("prefill_chunk_size", kwargs, *configs):
            kwargs[CACHE_FIELD] = DecodeCache()  # transformers needs one before the first chunk
        return super().generate(*args, **kwargs)

    @wraps(GenerationMixin.prepare_inputs_for_generation)  # `generate` inspects its signature
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Prepare inputs as in transformers, without arguments of `generate` that `forward` does not have."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        return {name: value for name, value in inputs.items() if name not in OF_GENERATE}

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse continuous batching, which supports only keys and values of attention.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{type(self).__name__} does not support continuous batching: it has its own cache")

    def _checkpoints(self) -> bool:
        """Return whether a forward pass would now recompute layers in its backward pass."""
        return self.training and torch.is_grad_enabled() and self.is_activation_checkpointing

    @property
    def is_activation_checkpointing(self) -> bool:
        """True if the activations of some layers are recomputed in the backward pass."""
        return any(block.checkpoint is not None for block in self.model.layers)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """`is_activation_checkpointing` under its name before transformers 5.24."""
        return self.is_activation_checkpointing

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        for index, block in enumerate(cast("Iterable[Block]", self.model.layers)):
            recompute = enable and index % every_n_layers == 0
            block.checkpoint = gradient_checkpointing_func if recompute else None

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` creates the cache

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: `HybridLM` initialises itself, and `from_pretrained` raises on missing tensors."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.model.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.model.embed = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.model.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head."""
        self.model.head = cast(nn.Linear, new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize as in transformers, and update the architecture."""
        embeddings: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.set_vocab_size(embeddings.weight.shape[0])
        self.model.architecture = self.config.build_architecture()
        return embeddings
