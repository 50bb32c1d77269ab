"""PEFT's adapters on every linear layer of every operator: they learn, they merge, and alone they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from tests.models import architecture, build

peft = pytest.importorskip("peft")

HDPL = [{"match": ["q", "v", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 6, "kl": "mean"}]
TOKENS = torch.randint(1, 37, (2, 11), generator=torch.Generator().manual_seed(1))
NAMED = {
    "task_type": "CAUSAL_LM", "feedforward_modules": ["down"],
    "target_modules": [
        "k", "o", "down", "mu", "logvar", "encoder", "decoder", "beta", "decay", "output_gate",
    ],
}  # fmt: skip
LINEAR = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}


def wrapped(layout: str = "FGWSK", **options: Any) -> NasForCausalLM:
    torch.manual_seed(0)
    inner = build(architecture(layout, num_layers=len(layout), mixers={"S": {"top_k": 3}}, **options))
    return NasForCausalLM.wrap(inner, NasConfig(inner.architecture.to_dict(), pad_token_id=0)).eval()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lambda: peft.LoraConfig(r=4, **LINEAR), id="lora"),
        pytest.param(lambda: peft.LoraConfig(r=4, use_dora=True, **LINEAR), id="dora"),
        pytest.param(lambda: peft.LoHaConfig(r=4, **LINEAR), id="loha"),
        pytest.param(lambda: peft.IA3Config(**NAMED), id="ia3"),
    ],
)
def test_every_adapter_learns_and_merges(config: Any) -> None:
    """Two steps: after one, LoRA's second factors are no longer zero."""
    rules = [
        {"match": ["v", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 6, "kl": "mean"},
        {"match": ["q"], "operator": "low_rank", "rank": 6},
    ]
    model = peft.get_peft_model(wrapped(projections=rules), config()).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(any(f".{part}." in name for name in trained) for part in ("mu", "encoder"))
    assert any(".indexer." in name for name in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.3)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    still = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    assert still == []
    model.eval()
    with torch.no_grad():
        adapted = model(input_ids=TOKENS).logits
        with model.disable_adapter():
            before = model(input_ids=TOKENS).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(before, wrapped(projections=rules)(TOKENS).logits)


@pytest.mark.parametrize("layout", ["FF", "GW", "SK"])
def test_adapters_come_back_and_generate(layout: str, tmp_path: Path) -> None:
    model = peft.get_peft_model(
        wrapped(layout, projections=HDPL), peft.LoraConfig(r=4, init_lora_weights=False, **LINEAR)
    )
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(wrapped(layout, projections=HDPL), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=TOKENS).logits, model.eval()(input_ids=TOKENS).logits)
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    settings["attention_mask"] = torch.ones_like(TOKENS)
    cached = again.generate(input_ids=TOKENS, **settings)
    assert torch.equal(cached, again.generate(input_ids=TOKENS, use_cache=False, **settings))


def test_soft_prompts_are_embeddings_and_prefixes_are_refused() -> None:
    soft = peft.get_peft_model(
        wrapped("FF"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()
    inner = soft.get_base_model()
    with torch.no_grad():
        prompt = soft.get_prompt(batch_size=2)
        expected = inner(inputs_embeds=torch.cat([prompt, inner.model.embed(TOKENS)], 1)).logits
        result = soft(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    torch.testing.assert_close(result, expected)
    prefix = peft.get_peft_model(
        wrapped("FF"), peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ValueError, match="DynamicCache does not fit this model"):
        prefix(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))


def test_an_adapter_on_the_head_takes_part_in_the_loss() -> None:
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["head"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(wrapped("FF"), config).eval()
    inner = model.get_base_model()
    with torch.no_grad():
        logits = model(input_ids=TOKENS).logits
        loss, _ = inner.model.loss(TOKENS, TOKENS)
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()))
