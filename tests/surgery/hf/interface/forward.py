"""Rows: the arguments of `forward`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from surgery.context import DecodeCache
from surgery.hf.inputs import CACHE_FIELD
from tests.surgery.hf.interface.cases import TOKENS, Case, close
from tests.surgery.hf.interface.rows import Row

GROUP = "forward"
LENGTH = TOKENS.shape[1]
LEFT = torch.tensor([[1] * LENGTH, [0, 0] + [1] * (LENGTH - 2)])
RIGHT = torch.tensor([[1] * LENGTH, [1] * (LENGTH - 2) + [0, 0]])


def call(model: Any, **arguments: Any) -> Any:
    with torch.no_grad():
        return model(**{"input_ids": TOKENS, **arguments})


def logits_of(model: Any, **arguments: Any) -> Tensor:
    result: Tensor = call(model, **arguments).logits
    return result


def given(**arguments: Any) -> Any:
    """A check that only calls `forward`."""
    return lambda case: call(case.ours, **arguments)


def input_ids(case: Case) -> None:
    case.same(logits_of, lambda model: logits_of(model, use_cache=False))


def inputs_embeds(case: Case) -> None:
    def run(model: Any) -> Tensor:
        return logits_of(model, input_ids=None, inputs_embeds=model.get_input_embeddings()(TOKENS))

    case.same(run, logits_of)


def padded(mask: Tensor) -> Any:
    """Real tokens are what they are alone, and what they are in Llama."""

    def check(case: Case) -> None:
        real = mask.bool()
        for given_mask in (mask, mask.bool(), mask.float()):
            case.same(
                lambda model, m=given_mask: logits_of(model, attention_mask=m)[real],
                lambda model: logits_of(model, attention_mask=mask)[real],
            )
        alone = logits_of(case.ours, input_ids=TOKENS[1:][real[1:]][None])
        close(logits_of(case.ours, attention_mask=mask)[1][real[1]], alone[0])

    return check


def position_ids(case: Case) -> None:
    """The start of the rotary angles does not matter to scores, but their distance does."""
    where = torch.arange(LENGTH)[None] + 5
    case.same(lambda model: logits_of(model, position_ids=where))
    apart = torch.arange(LENGTH)[None] * 2
    case.same(
        lambda model: logits_of(model, position_ids=apart, past_key_values=None, attention_mask=LEFT)[0],
        lambda model: logits_of(model, position_ids=apart, use_cache=False, attention_mask=LEFT)[0],
    )
    if case.theirs is None and case.column not in ("G", "D", "M", "H"):
        assert not torch.allclose(
            logits_of(case.ours, position_ids=apart, attention_mask=LEFT),
            logits_of(case.ours, attention_mask=LEFT),
        )


def turns(name: str) -> Any:
    """Three turns of a conversation with one cache are the whole text at once."""

    def check(case: Case) -> None:
        if case.theirs is not None and name == CACHE_FIELD:
            case.same(lambda model: in_turns(model, name))
        close(in_turns(case.ours, name), logits_of(case.ours, use_cache=False))

    return check


def in_turns(model: Any, name: str) -> Tensor:
    cache, parts = None, []
    for piece in TOKENS.split([3, 1, LENGTH - 4], dim=1):
        output = call(model, input_ids=piece, use_cache=True, **{name: cache})
        cache = output[CACHE_FIELD]
        parts.append(output.logits)
    return torch.cat(parts, dim=1)


def padded_turns(case: Case) -> None:
    """A mask over cached and new tokens."""
    cache, parts = None, []
    for stop, piece in zip((4, LENGTH), TOKENS.split([4, LENGTH - 4], dim=1), strict=True):
        output = call(
            case.ours, input_ids=piece, use_cache=True, attention_mask=LEFT[:, :stop], **{CACHE_FIELD: cache}
        )
        cache = output[CACHE_FIELD]
        parts.append(output.logits)
    real = LEFT.bool()
    close(torch.cat(parts, dim=1)[real], logits_of(case.ours, attention_mask=LEFT, use_cache=False)[real])


def use_cache(case: Case) -> None:
    for wanted in (True, False):
        case.same(lambda model, w=wanted: call(model, use_cache=w))
        assert (CACHE_FIELD in call(case.ours, use_cache=wanted)) == wanted


def labels(case: Case) -> None:
    targets = TOKENS.masked_fill(RIGHT == 0, -100)
    case.same(
        lambda model: call(model, labels=targets).loss,
        None if case.theirs is not None else lambda model: by_hand(logits_of(model), targets),
    )


def by_hand(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), reduction=reduction)


def shift_labels(case: Case) -> None:
    targets = F.pad(TOKENS, (0, 1), value=-100)[:, 1:].contiguous()
    case.same(
        lambda model: call(model, labels=TOKENS, shift_labels=targets).loss,
        lambda model: call(model, labels=TOKENS).loss,
    )


def ignore_index(case: Case) -> None:
    targets = TOKENS.masked_fill(RIGHT == 0, -100)
    case.same(
        lambda model: call(model, labels=TOKENS.masked_fill(RIGHT == 0, 0), ignore_index=0).loss,
        lambda model: call(model, labels=targets).loss,
    )


def num_items_in_batch(case: Case) -> None:
    for count in (20, torch.tensor(20)):
        case.same(
            lambda model, n=count: call(model, labels=TOKENS, num_items_in_batch=n).loss,
            lambda model: by_hand(logits_of(model), TOKENS, "sum") / 20,
        )


def logits_to_keep(case: Case) -> None:
    picks = torch.tensor([[0, 2], [5, 1]])
    for kept in (0, 1, 3, torch.tensor([0, 4]), LEFT[0].bool()):
        case.same(lambda model, k=kept: logits_of(model, logits_to_keep=k))
    whole = logits_of(case.ours)
    close(logits_of(case.ours, logits_to_keep=picks), whole.take_along_dim(picks[..., None], 1))
    close(logits_of(case.ours, logits_to_keep=LEFT.bool()), whole[LEFT.bool()])


def return_dict(case: Case) -> None:
    for wanted in (True, False):
        case.same(
            lambda model, w=wanted: (
                list(
                    call(model, labels=TOKENS, return_dict=w, use_cache=False, output_hidden_states=True)[:2]
                )
                if not w
                else call(model, labels=TOKENS, return_dict=w)
            )
        )
    assert isinstance(call(case.ours, return_dict=False), tuple)


def hidden_states(case: Case) -> None:
    result = call(case.ours, output_hidden_states=True).hidden_states
    passes = case.ours.model.architecture.loop_count
    assert len(result) == 1 + passes * case.ours.config.num_hidden_layers
    case.same(lambda model: call(model, output_hidden_states=True).hidden_states)
    close(result[0], case.ours.get_input_embeddings()(TOKENS))
    close(case.ours.get_output_embeddings()(result[-1]), logits_of(case.ours))


def idle(**arguments: Any) -> Any:
    """Values that ask for nothing."""
    return lambda case: case.same(lambda model: logits_of(model, **arguments), logits_of)


ROWS = [
    Row(GROUP, "input_ids", input_ids, "logits"),
    Row(GROUP, "inputs_embeds", inputs_embeds, "logits of the tokens that were embedded"),
    Row(GROUP, "attention_mask, padding left", padded(LEFT), "logits of a row are those of its text alone"),
    Row(GROUP, "attention_mask, padding right", padded(RIGHT), "logits of a row are those of its text alone"),
    Row(GROUP, "attention_mask, 4-D", given(attention_mask=torch.zeros(2, 1, LENGTH, LENGTH)),
        "mixers without attention maps have nothing to add it to", "attention_mask: a mask of 4 dimensions"),
    Row(GROUP, "attention_mask, added to scores", given(attention_mask=torch.full((2, LENGTH), -1e9)),
        "every value but 0 would count as a real token", "must hold 1 at real tokens"),
    Row(GROUP, "attention_mask, another length", given(attention_mask=torch.ones(2, 3)),
        "it must cover the cached and the new tokens", "must have the shape"),
    Row(GROUP, "position_ids", position_ids, "logits at shifted and at spread positions"),
    Row(GROUP, "position_ids, packed texts", given(position_ids=torch.arange(LENGTH)[None] % 3),
        "the texts of a row would see each other; give each a row of its own", "a row of its own"),
    Row(GROUP, "past_key_values", turns("past_key_values"), "three turns are the whole text at once"),
    Row(GROUP, "cache", turns("cache"), "the same argument, as transformers calls it since 5.24"),
    Row(GROUP, "past_key_values with attention_mask", padded_turns, "two turns of padded texts"),
    Row(GROUP, "past_key_values, a cache of transformers", given(past_key_values=DynamicCache()),
        "it has no layers for recurrent states and loops", "DynamicCache does not fit this model"),
    Row(GROUP, "past_key_values and cache", given(past_key_values=DecodeCache(), cache=DecodeCache()),
        "two caches for one argument", "either cache or past_key_values"),
    Row(GROUP, "use_cache", use_cache, "logits, and a cache only where it is asked for"),
    Row(GROUP, "labels", labels, "the loss of shifted labels, without those of -100"),
    Row(GROUP, "shift_labels", shift_labels, "the loss of labels that are shifted already"),
    Row(GROUP, "ignore_index", ignore_index, "the loss without labels of another value"),
    Row(GROUP, "num_items_in_batch", num_items_in_batch, "the summed loss over this count"),
    Row(GROUP, "logits_to_keep", logits_to_keep, "a count, positions of all rows or of each, or a mask"),
    Row(GROUP, "return_dict", return_dict, "the same values as a tuple"),
    Row(GROUP, "output_hidden_states", hidden_states,
        "the input of every layer and the normed output of the last; every pass of a loop gives its own"),
    Row(GROUP, "output_attentions", given(output_attentions=True),
        "not every mixer has attention maps", "output_attentions: this model does not record"),
    Row(GROUP, "output_router_logits", given(output_router_logits=True), "there is no router",
        "does not know the arguments output_router_logits"),
    Row(GROUP, "is_causal=True", idle(is_causal=True, output_attentions=False), "asks for what is done"),
    Row(GROUP, "is_causal=False", given(is_causal=False), "recurrent mixers see no later tokens",
        "does not know the arguments is_causal"),
    Row(GROUP, "cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k",
        given(cu_seq_lens_q=TOKENS[0], cu_seq_lens_k=TOKENS[0], max_length_q=3, max_length_k=3),
        "packed texts, see position_ids", "arguments cu_seq_lens_k, cu_seq_lens_q, max_length_k"),
    Row(GROUP, "seq_idx", given(seq_idx=TOKENS), "packed texts, see position_ids", "arguments seq_idx"),
    Row(GROUP, "cache_position", given(cache_position=torch.arange(LENGTH)),
        "transformers has dropped it; the cache knows its length", "arguments cache_position"),
    Row(GROUP, "token_type_ids", given(token_type_ids=TOKENS), "there are no token types",
        "arguments token_type_ids"),
    Row(GROUP, "any other argument", given(attention_msk=TOKENS), "a misspelled one would have no effect",
        "arguments attention_msk"),
    Row(GROUP, "any other argument, None", idle(token_type_ids=None, seq_idx=None), "asks for nothing"),
]  # fmt: skip
