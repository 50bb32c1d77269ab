"""Rows: the arguments of `generate` and the fields of `GenerationConfig`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    PreTrainedTokenizerFast,
    StoppingCriteriaList,
)

from surgery.hf.inputs import CACHE_FIELD
from tests.surgery.hf.interface.cases import TOKENS, Case, close
from tests.surgery.hf.interface.rows import Row

GROUP = "generate"
CONFIG = "GenerationConfig"
NEW = 5
LEFT = torch.tensor([[1] * 7, [0, 0] + [1] * 5])
ENDS = list(range(3, 61, 2))  # so many end tokens that texts end early
SAMPLED = {"do_sample": True}
BEAMS = {"num_beams": 2}


def tokenizer() -> PreTrainedTokenizerFast:
    """61 tokens: letters, and words of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(a + b for a, b in pairwise(letters))]
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *words, *"0123456"])}
    merges = [(word[0], word[1]) for word in words if len(word) == 2]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    assert len(vocabulary) == 61, len(vocabulary)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def text(model: Any, **settings: Any) -> Any:
    """The result of `generate`, from one seed."""
    settings = {"inputs": TOKENS, "max_new_tokens": NEW, "do_sample": False, **settings}
    if isinstance(settings["inputs"], Tensor):
        settings.setdefault("attention_mask", torch.ones_like(settings["inputs"]))
    torch.manual_seed(11)
    absent = {name for name, value in settings.items() if isinstance(value, str) and value == "absent"}
    return model.generate(**{name: value for name, value in settings.items() if name not in absent})


def generated(**settings: Any) -> Any:
    """The tokens are Llama's with these settings; in other columns, those without a cache."""

    def check(case: Case) -> None:
        if case.theirs is not None:
            case.same(lambda model: text(model, **settings))
        if "use_cache" not in settings:
            close(_plain(text(case.ours, **settings)), _plain(text(case.ours, use_cache=False, **settings)))

    return check


def _plain(result: Any) -> Any:
    return result if isinstance(result, Tensor) else result.sequences


def only(**settings: Any) -> Any:
    """With a cache only: nothing to compare with in other columns but that the option changes nothing."""

    def check(case: Case) -> None:
        case.same(lambda model: text(model, **settings), None if case.theirs is not None else text)

    return check


def asked(**settings: Any) -> Any:
    """A check that only calls `generate`."""
    return lambda case: text(case.ours, **settings)


def sequences(case: Case) -> None:
    """The greedy text is that of a loop written by hand, without cache or `generate`."""
    ids = TOKENS
    for _ in range(NEW):
        with torch.no_grad():
            ids = torch.cat([ids, case.ours(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    case.same(text, text if case.theirs is not None else lambda _: ids)
    close(text(case.ours), ids)


def padded(case: Case) -> None:
    case.same(lambda model: text(model, attention_mask=LEFT))
    alone = text(case.ours, inputs=TOKENS[1:, 2:])
    close(text(case.ours, attention_mask=LEFT)[1:, 2:], alone)


def embedded(case: Case) -> None:
    def run(model: Any) -> Tensor:
        return text(
            model, inputs="absent", inputs_embeds=model.get_input_embeddings()(TOKENS),
            attention_mask=torch.ones_like(TOKENS),
        )  # fmt: skip

    case.same(run, lambda model: text(model)[:, TOKENS.shape[1] :])


def positions(case: Case) -> None:
    case.same(
        lambda model: text(model, position_ids=torch.arange(7)[None].expand(2, -1) + 3),
        lambda model: text(model, position_ids=torch.arange(7)[None].expand(2, -1) + 3, use_cache=False),
    )


def conversation(case: Case) -> None:
    """The second turn continues from the cache of the first."""

    def run(model: Any) -> Tensor:
        first = text(model, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, TOKENS[:, :3]], dim=1)
        return text(model, inputs=longer, **{CACHE_FIELD: first[CACHE_FIELD]})

    def anew(model: Any) -> Tensor:
        return text(model, inputs=torch.cat([text(model), TOKENS[:, :3]], dim=1), use_cache=False)

    case.same(run, run if case.theirs is not None else anew)
    close(run(case.ours), anew(case.ours))


def defaults(case: Case) -> None:
    """The model's own defaults hold, and those of the call before them."""
    for model in case.both:
        model.generation_config.update(max_new_tokens=3, repetition_penalty=1.5)
    case.same(lambda model: text(model, max_new_tokens=None))
    case.same(lambda model: text(model, generation_config=GenerationConfig(max_new_tokens=4, num_beams=2)))
    case.same(lambda model: text(model, max_new_tokens=2))


def refused_default(case: Case) -> None:
    case.ours.generation_config.cache_implementation = "static"
    text(case.ours)


class Favour(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, (input_ids[:, -1] * 7) % 61] += 2
        return scores


class Listener:
    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        self.heard.append(value)

    def end(self) -> None:
        self.heard.append(torch.tensor(-1))


def streamed(case: Case) -> None:
    def run(model: Any) -> list[Tensor]:
        listener = Listener()
        text(model, inputs=TOKENS[:1], streamer=listener)
        assert len(listener.heard) == NEW + 2
        return listener.heard

    case.same(run)


def own_loop(case: Case) -> None:
    """A decoding loop of the user's own."""

    def loop(model: Any, input_ids: Tensor, generation_config: Any, **kwargs: Any) -> Tensor:
        for _ in range(3):
            with torch.no_grad():
                input_ids = torch.cat([input_ids, model(input_ids).logits[:, -1:].argmin(-1)], dim=1)
        return input_ids

    def unwrapped(model: Any, *args: Any, **kwargs: Any) -> Tensor:
        given = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        return loop(model, given, None)

    case.same(lambda model: text(model, custom_generate=unwrapped))


def synced(case: Case) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        case.same(lambda model: text(model, synced_gpus=True), text)
    finally:
        dist.destroy_process_group()


def recorded(case: Case) -> None:
    settings = {"output_scores": True, "output_logits": True, "output_hidden_states": True}

    def run(model: Any) -> Any:
        return text(model, return_dict_in_generate=True, **settings)

    case.same(run)
    assert len(run(case.ours).hidden_states) == NEW
    close(
        run(case.ours).logits,
        text(case.ours, return_dict_in_generate=True, use_cache=False, **settings).logits,
    )


def continuous(case: Case) -> None:
    case.ours.generate_batch([[3, 4, 5]])


ARGUMENTS = [
    Row(GROUP, "inputs", sequences, "greedy tokens are those of a loop written by hand"),
    Row(GROUP, "attention_mask, padding left", padded, "tokens of a row are those of its text alone"),
    Row(GROUP, "inputs_embeds", embedded, "tokens after the embedded ones"),
    Row(GROUP, "position_ids", positions, "tokens at shifted positions"),
    Row(GROUP, "past_key_values, cache", conversation, "a second turn continues from the cache of the first"),
    Row(GROUP, "generation_config", defaults, "defaults of the model, of the argument, of the call"),
    Row(GROUP, "generation_config, a default that can't be followed", refused_default,
        "as in the call; `nas apply` leaves such defaults out, with a note", "cache_implementation"),
    Row(GROUP, "logits_processor", generated(logits_processor=LogitsProcessorList([Favour()])), "tokens"),
    Row(GROUP, "stopping_criteria", generated(
        stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(9)])), "tokens"),
    Row(GROUP, "prefix_allowed_tokens_fn", generated(
        prefix_allowed_tokens_fn=lambda row, ids: [3 + row, 7 + len(ids)]), "tokens"),
    Row(GROUP, "synced_gpus", synced, "tokens, in a process group"),
    Row(GROUP, "streamer", streamed, "tokens one by one"),
    Row(GROUP, "negative_prompt_ids, negative_prompt_attention_mask", generated(
        guidance_scale=1.5, negative_prompt_ids=TOKENS[:, :3],
        negative_prompt_attention_mask=torch.ones(2, 3, dtype=torch.long)), "tokens led away from a prompt"),
    Row(GROUP, "custom_generate", own_loop, "tokens of a loop that is given the model"),
    Row(GROUP, "assistant_model",
        lambda case: text(case.ours, assistant_model=case.ours, inputs=TOKENS[:1]),
        "a recurrent state can't be taken back", "assistant_model = 'NasForCausalLM'"),
    Row(GROUP, "generate_batch", continuous, "continuous batching pages keys and values only",
        "continuous batching"),
    Row(GROUP, "any other argument", asked(temprature=0.5), "a misspelled option would have no effect",
        "not used by the model"),
]  # fmt: skip


def field(name: str, value: Any, what: str = "tokens", **more: Any) -> Row:
    return Row(CONFIG, name, generated(**{name: value, **more}), what)


def without(name: str, value: Any, why: str) -> Row:
    return Row(CONFIG, name, asked(**{name: value}), why, f"{name} = ")


OWN_CACHE = "the model keeps its own cache"
NO_WAY_BACK = "a recurrent state can't be taken back to an earlier token"
HUB_CODE = "is run by code from the Hub, written for transformers' caches"
IDLE = "tokens: has no effect without an assistant"

FIELDS = [
    field("max_length", 10, max_new_tokens=None),
    field("max_new_tokens", 3),
    field("min_length", 10, eos_token_id=ENDS),
    field("min_new_tokens", 4, eos_token_id=ENDS),
    field("early_stopping", True, eos_token_id=ENDS, **BEAMS),
    field("max_time", 1e6),
    field("stop_strings", ["ab", "q", "xy"], tokenizer=tokenizer()),
    field("do_sample", True),
    field("num_beams", 3),
    field("use_cache", False, "tokens are those with a cache"),
    Row(CONFIG, "cache_implementation, dynamic", generated(cache_implementation="dynamic"), "tokens"),
    without("cache_implementation", "static", OWN_CACHE),
    without("cache_config", {"nbits": 4}, OWN_CACHE),
    Row(CONFIG, "max_cache_len", generated(max_cache_len=64), "tokens: has no effect without a static cache"),
    field("temperature", 0.5, **SAMPLED),
    field("top_k", 4, **SAMPLED),
    field("top_p", 0.4, **SAMPLED),
    field("min_p", 0.05, **SAMPLED),
    field("top_h", 0.5, **SAMPLED),
    field("typical_p", 0.5, **SAMPLED),
    field("epsilon_cutoff", 0.02, **SAMPLED),
    field("eta_cutoff", 0.02, **SAMPLED),
    field("repetition_penalty", 1.7),
    field("encoder_repetition_penalty", 1.7),
    field("length_penalty", 2.0, eos_token_id=ENDS, **BEAMS),
    field("no_repeat_ngram_size", 1),
    field("bad_words_ids", [[5], [7, 9]]),
    field("renormalize_logits", True, repetition_penalty=1.5, **BEAMS),
    field("forced_bos_token_id", 5),
    field("forced_eos_token_id", 6),
    field("remove_invalid_values", True),
    field("exponential_decay_length_penalty", (1, 1.5), eos_token_id=ENDS),
    field("suppress_tokens", list(range(20, 50))),
    field("begin_suppress_tokens", list(range(20, 50))),
    field("sequence_bias", [[[5], 3.0], [[7, 9], 4.0]]),
    field("token_healing", True, inputs=TOKENS[:1], tokenizer=tokenizer()),
    field("guidance_scale", 1.5),
    field("watermarking_config", {"bias": 2.5, "seeding_scheme": "selfhash"}),
    field("num_return_sequences", 3, **SAMPLED),
    Row(CONFIG, "output_hidden_states, output_scores, output_logits, return_dict_in_generate", recorded,
        "hidden states, scores and logits of every step"),
    without("output_attentions", True, "not every mixer has attention maps"),
    field("pad_token_id", 4, eos_token_id=ENDS),
    field("bos_token_id", 5, inputs="absent", attention_mask="absent"),
    field("eos_token_id", ENDS),
    field("encoder_no_repeat_ngram_size", 1),
    field("decoder_start_token_id", 1, "tokens: only encoder-decoder models start with it"),
    without("is_assistant", True, NO_WAY_BACK),
    field("num_assistant_tokens", 5, IDLE),
    field("num_assistant_tokens_schedule", "constant", IDLE),
    field("assistant_confidence_threshold", 0.4, IDLE),
    field("max_matching_ngram_size", 2, IDLE),
    field("assistant_lookbehind", 3, IDLE),
    field("target_lookbehind", 3, IDLE),
    field("assistant_ensemble_weight", 0.5, IDLE),
    without("prompt_lookup_num_tokens", 3, NO_WAY_BACK),
    without("assistant_early_exit", 1, NO_WAY_BACK),
    without("use_mtp", True, "the model predicts one token at a time"),
    without("speculation_type", "dflash", NO_WAY_BACK),
    field("compile_config", CompileConfig(), "tokens: transformers compiles its static caches only"),
    field("disable_compile", True),
    Row(CONFIG, "prefill_chunk_size", only(prefill_chunk_size=3), "tokens of a prompt read in pieces"),
    without("continuous_batching_config", {"block_size": 4}, OWN_CACHE),
    without("penalty_alpha", 0.6, HUB_CODE),
    without("dola_layers", "high", HUB_CODE),
    without("low_memory", True, HUB_CODE),
    without("num_beam_groups", 2, HUB_CODE),
    without("diversity_penalty", 0.5, HUB_CODE),
    without("constraints", [1], HUB_CODE),
    without("force_words_ids", [[3]], HUB_CODE),
]  # fmt: skip

ROWS = ARGUMENTS + FIELDS
