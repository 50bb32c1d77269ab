"""`NasForCausalLM` against the model it wraps, and against itself: caches, padding, beams, half precision."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.configuration_utils import ALLOWED_LAYER_TYPES

from surgery.config.problems import UserError
from surgery.context import DecodeCache
from surgery.hf.configuration import NasConfig
from surgery.hf.export import save
from surgery.hf.inputs import CACHE_FIELD
from surgery.hf.modeling import NasForCausalLM
from surgery.mixers import MIXERS
from tests.models import architecture, build

HDPL = [{"match": ["q", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 6}]
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def wrapped(**options: Any) -> NasForCausalLM:
    model = build(architecture("FF", projections=HDPL, **options))
    return NasForCausalLM.wrap(model, NasConfig(model.architecture.to_dict(), pad_token_id=0)).eval()


@pytest.fixture(params=[1, 3], ids=["plain", "looped"])
def model(request: pytest.FixtureRequest) -> NasForCausalLM:
    return wrapped(loops=request.param)


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(1, 37, (batch, length))


def test_logits_loss_and_kept_positions(model: NasForCausalLM) -> None:
    ids = tokens()
    inner = model.model
    expected = inner.head(inner(ids))
    torch.testing.assert_close(model(ids).logits, expected)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, expected[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, expected[:, [0, 4]])
    torch.testing.assert_close(model(inputs_embeds=inner.embed(ids)).logits, expected)
    labels = ids.clone()
    labels[0, :4] = -100
    wanted = F.cross_entropy(expected[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(model(ids, labels=labels).loss, wanted)
    assert isinstance(model(ids, return_dict=False), tuple)
    with pytest.raises(ValueError, match="either"):
        model()


def test_training_loss_includes_the_auxiliary_terms() -> None:
    rules = [{"match": "up", "operator": "hdpl", "blocks": 2, "rank": 6, "kl_weight": 0.5, "kl": "mean"}]
    inner = build(architecture(projections=rules))
    model = NasForCausalLM.wrap(inner, NasConfig(inner.architecture.to_dict())).train()
    ids = tokens()
    torch.manual_seed(3)
    loss = model(ids, labels=ids).loss
    torch.manual_seed(3)
    plain, auxiliary = inner.loss(ids[:, :-1], ids[:, 1:])
    assert auxiliary.item() > 0.01
    assert loss.item() > 0.5 * (plain + auxiliary).item()
    assert CACHE_FIELD not in model(ids)  # nothing is cached while training
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_cached_generation_is_uncached_generation(model: NasForCausalLM) -> None:
    ids = tokens()
    mask = torch.ones_like(ids)
    for beams in (1, 3):
        settings = {**GREEDY, "num_beams": beams, "attention_mask": mask}
        cached = model.generate(ids, use_cache=True, **settings)
        assert cached.shape == (2, 21)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **settings))


@pytest.mark.parametrize("use_cache", [True, False])
def test_left_padding_changes_nothing(model: NasForCausalLM, use_cache: bool) -> None:
    long, short = tokens(1, 9), tokens(1, 5)
    batch = torch.cat([long, F.pad(short, (4, 0))])
    mask = torch.ones_like(batch)
    mask[1, :4] = 0
    together = model.generate(batch, attention_mask=mask, use_cache=use_cache, **GREEDY)
    alone = [model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY) for ids in (long, short)]
    assert torch.equal(together[0], alone[0][0])
    assert torch.equal(together[1, 4:], alone[1][0])
    torch.testing.assert_close(
        model(batch, attention_mask=mask).logits[1, 4:], model(short).logits[0], atol=1e-5, rtol=1e-5
    )


def test_right_padding_changes_nothing(model: NasForCausalLM) -> None:
    ids = tokens(1, 6)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    padded = model(F.pad(ids, (0, 3)), attention_mask=mask).logits[:, :6]
    torch.testing.assert_close(padded, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_cache_of_the_user_is_extended(model: NasForCausalLM) -> None:
    ids = tokens()
    cache = DecodeCache()
    model(ids[:, :4], past_key_values=cache)
    assert cache.get_seq_length() == 4
    rest = model(ids[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(rest, model(ids).logits[:, 4:], atol=1e-5, rtol=1e-5)
    # generate continues from it: the prompt is given whole, only its new part is computed
    start = DecodeCache()
    model(ids[:, :4], past_key_values=start)
    mask = torch.ones_like(ids)
    continued = model.generate(ids, attention_mask=mask, past_key_values=start, **GREEDY)
    assert torch.equal(continued, model.generate(ids, attention_mask=mask, **GREEDY))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_both_names_of_the_cache_are_taken(model: NasForCausalLM, name: str) -> None:
    ids, start = tokens(), DecodeCache()
    expected = model(ids).logits
    first = model(ids[:, :4], **{name: start})
    assert first[CACHE_FIELD] is start
    rest = model(ids[:, 4:], **{name: first[CACHE_FIELD]})
    assert start.get_seq_length() == 9
    torch.testing.assert_close(rest.logits, expected[:, 4:], atol=1e-5, rtol=1e-5)
    prepared = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **{name: start})
    assert start in prepared.values()
    assert model(ids[:, -1:], past_key_values=start, cache=start)[CACHE_FIELD] is start
    with pytest.raises(ValueError, match="either cache or past_key_values"):
        model(ids, past_key_values=start, cache=DecodeCache())


def test_caches_and_outputs_it_does_not_have_are_refused(model: NasForCausalLM) -> None:
    from transformers import DynamicCache

    for name in ("past_key_values", "cache"):
        with pytest.raises(ValueError, match=f"{name}: a DynamicCache .* DecodeCache"):
            model(tokens(), **{name: DynamicCache()})
    with pytest.raises(ValueError, match="cropped"):
        DecodeCache().crop(-1)
    with pytest.raises(ValueError, match="output_attentions: this model does not record them"):
        model(tokens(), output_attentions=True)
    model.set_attn_implementation("eager")  # transformers asks for it
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions"):
        model(tokens())


def test_unknown_arguments_are_refused_by_name(model: NasForCausalLM) -> None:
    ids = tokens()
    for arguments in (
        {"cache_params": DecodeCache()},
        {"is_causal": False},
        {"token_type_ids": ids},
        {"cache_position": torch.arange(9)},
        {"attention_masks": torch.ones_like(ids), "label": ids},
    ):
        with pytest.raises(ValueError, match=f"does not know the arguments {', '.join(sorted(arguments))}"):
            model(ids, **arguments)
    expected = model(ids).logits  # what is left out under its name is no request
    assert torch.equal(model(ids, output_attentions=False, token_type_ids=None).logits, expected)


def test_hidden_states_are_the_inputs_of_the_layers_and_the_output(model: NasForCausalLM) -> None:
    ids, seen = tokens(), []
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    result = model(ids, output_hidden_states=True)
    assert len(result.hidden_states) == 2 * model.model.architecture.loop_count + 1
    torch.testing.assert_close(result.hidden_states[:-1], tuple(seen), atol=0, rtol=0)
    assert torch.equal(model.model.head(result.hidden_states[-1]), result.logits)
    padded = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    alone = model(ids[1:, :6], output_hidden_states=True).hidden_states
    for left, right in zip(padded, alone, strict=True):  # in the columns of the caller
        torch.testing.assert_close(left[1:, :6], right, atol=1e-5, rtol=1e-5)
    model.config.output_hidden_states = True
    assert torch.equal(model(ids).hidden_states[1], result.hidden_states[1])
    assert model(ids, output_hidden_states=False).hidden_states is None


def test_some_layers_may_be_checkpointed_and_their_cache_is_refused(model: NasForCausalLM) -> None:
    ids = tokens()
    model.train()
    recompute = partial(checkpoint, use_reentrant=False)
    model._set_gradient_checkpointing(gradient_checkpointing_func=recompute, every_n_layers=2)
    assert [block.checkpoint is not None for block in model.model.layers] == [True, False]
    assert CACHE_FIELD not in model(ids, use_cache=True)
    with pytest.raises(ValueError, match="gradient checkpointing"):
        model(ids, past_key_values=DecodeCache())
    with torch.no_grad():
        assert CACHE_FIELD in model(ids, use_cache=True)  # nothing is computed twice here
    model._set_gradient_checkpointing(False)
    assert not model.is_activation_checkpointing


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"attention_mask": torch.zeros(2, 1, 9, 9)}, "attention_mask: a mask of 4 dimensions"),
        ({"attention_mask": torch.full((2, 9), -1e4)}, "must hold 1 at real tokens and 0"),
        ({"attention_mask": torch.ones(2, 8)}, "must have the shape"),
        ({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]])}, "a row of its own"),
        ({"position_ids": torch.zeros(3, 2, 9, dtype=torch.long)}, "must have 2 dimensions"),
    ],
)
def test_inputs_that_mean_something_else_are_refused(
    model: NasForCausalLM, inputs: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(tokens(), **inputs)


@pytest.mark.parametrize("field", ["arquitecture", "hidden_act", "n_layer", "eos_token_ids"])
def test_unknown_fields_of_the_config_are_refused_by_name(field: str) -> None:
    known = {"quantization_config": None, "torch_dtype": "float32", "id2label": {0: "a"}, "top_k": 3}
    settings = NasConfig(architecture().to_dict(), eos_token_id=1, **known).to_dict()
    assert NasConfig.from_dict(dict(settings)).to_dict() == settings
    with pytest.raises(UserError, match=rf"{field} = 5: is no field of this configuration"):
        NasConfig.from_dict({**settings, field: 5})


def test_sampling_several_sequences(model: NasForCausalLM) -> None:
    ids = tokens(1)
    result = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, num_return_sequences=3, max_new_tokens=5,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert result.shape == (3, 14)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_it_is_the_same_model(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    import surgery  # noqa: F401

    model = wrapped(tie_embeddings=tied, loops=2)
    ids = tokens()
    save(model.model, tmp_path / "saved")
    model.save_pretrained(tmp_path / "pretrained")
    for folder in ("saved", "pretrained"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert type(loaded) is NasForCausalLM
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
        assert (tmp_path / folder / "modeling_nas.py").is_file()
    for dtype in (torch.bfloat16, torch.float16):
        half = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype)
        assert {parameter.dtype for parameter in half.parameters()} == {dtype}
        torch.testing.assert_close(half(ids).logits.float(), model(ids).logits, atol=0.2, rtol=0.1)
        assert half.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY).shape == (2, 21)


def test_missing_and_misshapen_tensors_are_an_error_not_random_numbers(tmp_path: Path) -> None:
    model = wrapped()
    save(model.model, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    del state["model.layers.1.ffn.up.mu.weight"], state["model.norm.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 2 tensors: model\.layers\.1\.ffn\.up\.mu\.weight"):
        NasForCausalLM.from_pretrained(tmp_path / "model")


def test_a_model_from_its_config_alone_has_its_own_start() -> None:
    from transformers import AutoModelForCausalLM

    config = NasConfig(architecture("FF", projections=HDPL).to_dict())
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        assert model.dtype == dtype
        assert 0.01 < model(tokens()).logits.float().std().item() < 10


def test_embeddings_can_be_resized(tmp_path: Path) -> None:
    model = wrapped(tie_embeddings=True)
    model.resize_token_embeddings(50)
    assert model(tokens()).logits.shape[-1] == 50
    model.save_pretrained(tmp_path)
    assert NasForCausalLM.from_pretrained(tmp_path).model.architecture.backbone.vocab_size == 50


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "vocab_size", "rms_norm_eps"])
def test_sizes_beside_the_architecture_are_refused(field: str, tmp_path: Path) -> None:
    model = wrapped()
    settings = model.config.to_dict()
    with pytest.raises(UserError, match=rf"{field} = 3: must be .*, as the field `architecture` says"):
        NasConfig.from_dict({**settings, field: 3})
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{field} = 3"):
        NasForCausalLM.from_pretrained(tmp_path, **{field: 3})


def test_config_says_what_others_look_for() -> None:
    config = NasConfig(architecture("FF", tie_embeddings=True).to_dict(), eos_token_id=2)
    assert (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads) == (24, 2, 2)
    assert config.layer_types == ["full_attention"] * 2
    assert config.tie_word_embeddings
    again = NasConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    for letter in MIXERS:  # older versions of transformers have another word for some
        assert set(NasConfig(architecture(letter).to_dict()).layer_types) <= set(ALLOWED_LAYER_TYPES)
