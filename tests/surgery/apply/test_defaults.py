"""Defaults of `generate`: carried, or left out with a note where the new model can't follow them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.defaults import generation_defaults
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.hf.modeling import NasForCausalLM

FOLLOWED = {
    "do_sample": False, "max_new_tokens": 9, "num_beams": 2, "num_return_sequences": 2, "length_penalty": 0.3,
    "repetition_penalty": 1.3, "bad_words_ids": [[5]], "use_cache": False, "prefill_chunk_size": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "unfollowed",
    [
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 4},
        {"cache_implementation": "quantized", "cache_config": {"backend": "quanto"}},
        {"num_beam_groups": 2, "diversity_penalty": 0.5},
        {"output_attentions": True, "return_dict_in_generate": True},
    ],
)
def test_what_can_not_be_followed_is_left_out_with_a_note(
    unfollowed: dict[str, Any], checkpoint: Callable[..., Path]
) -> None:
    folder = checkpoint("llama")
    path = folder / "generation_config.json"
    before = json.loads(path.read_text())
    kept = {name: value for name, value in unfollowed.items() if name == "return_dict_in_generate"}
    path.write_text(json.dumps({**before, **FOLLOWED, **unfollowed}))
    source = read_source(folder)
    settings, notes = generation_defaults(source)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    public = {name: v for name, v in before.items() if not name.startswith("_") and name not in unfollowed}
    assert settings == {**public, **tokens, **FOLLOWED, **kept}
    assert len(notes) == len(unfollowed) - len(kept)
    warnings = plan(source, {}).warnings
    for name, value in unfollowed.items():
        if name not in kept:
            start = f"generation_config.json: {name} = {json.dumps(value)} is left out: "
            assert sum(text.startswith(start) for text in warnings) == 1


def test_an_exported_model_generates_by_the_defaults_of_its_source(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from surgery.apply.pipeline import apply

    folder = checkpoint("llama", num_hidden_layers=1)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | FOLLOWED | {"cache_implementation": "dynamic"}))
    apply(folder, {}, tmp_path / "out", stock=False)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ours = NasForCausalLM.from_pretrained(tmp_path / "out")
    prompt = torch.randint(3, 61, (2, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.generate(prompt), theirs.generate(prompt))
