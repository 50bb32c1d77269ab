"""Rows: PEFT."""

from __future__ import annotations

from typing import Any

import torch

from tests.surgery.hf.interface.cases import TOKENS, Case, close, linears
from tests.surgery.hf.interface.generation import text
from tests.surgery.hf.interface.rows import Row

GROUP = "PEFT"
ALL = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=TOKENS).logits
    return result


def adapted(case: Case, **options: Any) -> Any:
    import peft

    return peft.get_peft_model(case.ours, peft.LoraConfig(r=2, **{**ALL, **options}))


def lora(case: Case) -> None:
    """Every adapter learns; before it has, nothing changes."""
    before = logits_of(case.ours)
    model = adapted(case)
    close(logits_of(model), before)
    wrapped = {name for name, module in model.named_modules() if type(module).__module__.startswith("peft.")}
    for name in linears(case.ours):
        if "base_layer" in name and "lora" not in name:
            assert any(name.removesuffix(".base_layer") in other for other in wrapped)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.train()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def merged(case: Case) -> None:
    model = adapted(case, init_lora_weights=False).eval()
    expected = logits_of(model)
    close(
        text(model, inputs="absent", input_ids=TOKENS),
        text(model, inputs="absent", input_ids=TOKENS, use_cache=False),
    )
    model.merge_adapter()
    close(logits_of(model), expected)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert (logits_of(model) - expected).abs().max() > 1e-3
    close(logits_of(model.merge_and_unload()), expected)


def checkpointed(case: Case) -> None:
    model = adapted(case, init_lora_weights=False).train()
    result = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(2)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        result.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    close(result[1], result[0])


def prompted(case: Case) -> None:
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    embed = case.ours.get_input_embeddings()
    model = peft.get_peft_model(case.ours, config).eval()
    with torch.no_grad():
        soft = model.get_prompt(batch_size=2)
        expected = case.ours(inputs_embeds=torch.cat([soft, embed(TOKENS)], dim=1)).logits
        close(model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits, expected)


def prefixed(case: Case) -> None:
    import peft

    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(case.ours, config)(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))


ROWS = [
    Row(GROUP, "LoraConfig, all-linear", lora, "logits before training; then every adapter has a gradient",
        needs="peft"),
    Row(GROUP, "merge_adapter, merge_and_unload, disable_adapter", merged, "logits and tokens", needs="peft"),
    Row(GROUP, "gradient_checkpointing_enable", checkpointed, "gradients of the adapters", needs="peft"),
    Row(GROUP, "PromptTuningConfig", prompted, "logits behind embedded prompts", needs="peft"),
    Row(GROUP, "PrefixTuningConfig", prefixed, "its prefix is a cache of keys and values",
        "DynamicCache does not fit this model", needs="peft"),
]  # fmt: skip
