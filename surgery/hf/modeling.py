"""`HybridLM` as a transformers causal LM: labels and loss, decode cache, `generate`."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from surgery.context import DecodeCache
from surgery.hf.configuration import NasConfig
from surgery.model import HybridLM

# transformers' name for the cache in outputs, and in what `generate` gives to `forward`
CACHE_FIELD = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
LOSS_ARGUMENTS = ("num_items_in_batch", "ignore_index", "shift_labels")
NOT_RECORDED = ("output_attentions", "output_hidden_states")
_RUNS_FROM_PACKAGE = __name__ == "surgery.hf.modeling"  # else a copy that stands beside a checkpoint


class NasForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM of any `nas` architecture. `model` is the `HybridLM`; in evaluation nothing is random.

    The cache is a `DecodeCache`, made by the forward pass; transformers' own cache classes know neither
    loops nor recurrent states and are refused. Attention maps and hidden states are not recorded.
    """

    config_class = NasConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"model.head.weight": "model.embed.weight"}
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _is_stateful = True  # no rolling back: assisted generation is refused with a clear message
    supports_gradient_checkpointing = False

    def __init__(self, config: NasConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # an orthogonal start can't be drawn in half precision
        try:
            self.model = HybridLM(config.build_architecture())
        finally:
            torch.set_default_dtype(dtype)
        self.model.to(dtype)
        self.post_init()

    @classmethod
    def wrap(cls, model: HybridLM, config: NasConfig) -> NasForCausalLM:
        """The given model, not a copy, behind this interface."""
        with torch.device("meta"):
            wrapped = cls(config)
        wrapped.model = model
        wrapped.train(model.training)
        return wrapped

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but tensors that the checkpoint lacks are an error, not random numbers.

        Raises:
            ValueError: missing or mismatched tensors, all listed.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        missing += sorted(f"{item[0]} (wrong shape)" for item in info["mismatched_keys"])
        if missing:
            raise ValueError(f"{source}: the checkpoint lacks {len(missing)} tensors: {', '.join(missing)}")
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the model's source beside the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if _RUNS_FROM_PACKAGE:  # by name, so that a copy of this file carries no copy of the copier
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
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (batch, kept tokens, vocabulary).

        Args:
            attention_mask: (batch, cached + new tokens), 1 at real tokens; padding may stand anywhere.
            past_key_values, cache: the `DecodeCache` of an earlier pass, extended in place. transformers
                called it `past_key_values` before 5.24 and calls it `cache` since; both are taken.
            labels: as `input_ids`, -100 where no loss is wanted. In training mode the loss includes the
                auxiliary terms of the operators.
            logits_to_keep: only the last so many positions (0: all), or the positions to keep.
            kwargs: `num_items_in_batch`, `ignore_index` and `shift_labels` go to the loss.

        Raises:
            ValueError: neither or both of the inputs, a cache or an output this model doesn't have, or an
                argument that it doesn't know.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        of_loss = _loss_arguments(kwargs)
        cache = _the_cache(past_key_values, cache)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DecodeCache()
        auxiliary: list[Tensor] = []
        hidden = self.model(
            input_ids,
            attention_mask=attention_mask,
            positions=position_ids,
            cache=cache,
            losses=auxiliary,
            embeddings=inputs_embeds,
        )
        logits = self.model.head(_keep(hidden, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **of_loss)
            if auxiliary:
                loss = loss + torch.stack(auxiliary).sum()
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_FIELD: cache})
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else cast("tuple[Any, ...]", output.to_tuple())

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` leaves the cache to `forward`

    def _init_weights(self, module: nn.Module) -> None:
        """`HybridLM` has drawn its own start; from_pretrained refuses what it could not load."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.model.head = cast(nn.Linear, new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers; the architecture follows."""
        embeddings: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.set_vocab_size(embeddings.weight.shape[0])
        self.model.architecture = self.config.build_architecture()
        return embeddings


def _the_cache(past_key_values: Any, cache: Any) -> DecodeCache | None:
    """The one cache that was given, under either name."""
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("give either cache or past_key_values: they are two names for the same argument")
    name, given = ("cache", cache) if cache is not None else ("past_key_values", past_key_values)
    if given is not None and not isinstance(given, DecodeCache):
        raise ValueError(
            f"{name}: a {type(given).__name__} does not fit this model, which needs its own DecodeCache; "
            "leave it out and take it from the output"
        )
    return given


def _loss_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the loss among the further arguments of `forward`; any other must be None or False.

    Raises:
        ValueError: arguments with a value that `forward` does not follow, all of them named.
    """
    asked = {name: value for name, value in kwargs.items() if value is not None and value is not False}
    found = {name: asked.pop(name) for name in LOSS_ARGUMENTS if name in asked}
    recorded = [name for name in NOT_RECORDED if asked.pop(name, None) is not None]
    problems = [f"{name}: this model does not record them" for name in recorded]
    if asked:
        problems.append(f"this model does not know the arguments {', '.join(sorted(asked))}")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _keep(hidden: Tensor, wanted: int | Tensor) -> Tensor:
    """Positions of (b, t, d) that `logits_to_keep` asks for: 0 all, n the last n, or 1-D indices."""
    if isinstance(wanted, int):
        return hidden[:, -wanted:] if wanted else hidden
    if wanted.ndim == 2:
        return hidden[wanted] if wanted.dtype == torch.bool else hidden.take_along_dim(wanted[..., None], 1)
    return hidden[:, wanted]
