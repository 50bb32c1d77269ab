"""Surgery into layers of other sizes: fewer key/value heads, and layers without one of their parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.config.problems import UserError
from tests.surgery.apply.conftest import SIZES

Make = Callable[..., Path]
TEXT = [torch.randint(61, (48,), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def merged(rows: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """The mean of each run of neighbouring heads (arXiv 2305.13245, section 2.1)."""
    return rows.reshape(heads, -1, width, *rows.shape[1:]).mean(1).reshape(heads * width, *rows.shape[1:])


@pytest.mark.parametrize(("old", "new"), [(4, 2), (4, 1), (2, 1)])
def test_merged_heads_in_all_layers_are_transformers_llama(checkpoint: Make, old: int, new: int) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    folder = checkpoint("llama", num_key_value_heads=old, attention_bias=True)
    given = AutoModelForCausalLM.from_pretrained(folder)
    options = {**SIZES, "num_key_value_heads": new, "attention_bias": True}
    wanted = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**options)).eval()
    wanted.load_state_dict({
        name: merged(tensor, new, 8) if ".k_proj" in name or ".v_proj" in name else tensor
        for name, tensor in given.state_dict().items()
    })  # fmt: skip
    source = read_source(folder)
    drawn = plan(source, {"mixers": {"F": {"kv_heads": new}}})
    assert (drawn.export.model_type, drawn.export.reasons) == ("llama", ())
    assert drawn.count("transplanted") == 4 * 6  # k, v and what reads them, o
    assert drawn.count("kept") == len(drawn.tensors) - 4 * 6
    _, fits = execute(source, drawn, calibration=TEXT)
    assert all(fit.output_error is not None and 0 < fit.output_error < 1 for fit in fits)  # 1: silent
    model, _ = execute(source, drawn)  # without a text `o` stays
    tokens = torch.randint(61, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(tokens)), wanted(tokens).logits, atol=1e-4, rtol=1e-4)


def test_more_heads_change_nothing(checkpoint: Make) -> None:
    source = read_source(checkpoint("olmo2"))
    same, _ = execute(source, plan(source, {}))
    drawn = plan(source, {"mixers": {"F": [{"layers": "1-2", "kv_heads": 4}]}})
    assert not drawn.export.is_stock
    model, fits = execute(source, drawn, calibration=TEXT)
    assert [fit.layer for fit in fits] == [1, 2]
    tokens = torch.randint(61, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), same(tokens), atol=1e-4, rtol=1e-4)


def test_joint_norms_of_keys_are_merged_with_them(checkpoint: Make) -> None:
    source = read_source(checkpoint("olmo2"))
    model, _ = execute(source, plan(source, {"mixers": {"F": [{"layers": 3, "kv_heads": 1}]}}))
    norm = source.tensor("model.layers.3.self_attn.k_norm.weight")
    torch.testing.assert_close(model.state_dict()["layers.3.mixer.k_norm.weight"], merged(norm, 1, 8))


def test_an_operator_is_fitted_to_merged_heads(checkpoint: Make) -> None:
    source = read_source(checkpoint("llama", num_key_value_heads=4))
    rules = [{"match": ["k"], "operator": "hdpl", "blocks": 2, "rank": 8, "layers": 1}]
    drawn = plan(source, {"mixers": {"F": [{"layers": 1, "kv_heads": 2}]}, "projections": rules})
    actions = {item.name: item.action for item in drawn.tensors}
    assert actions["layers.1.mixer.v.weight"] == "transplanted"
    model, fits = execute(source, drawn, calibration=TEXT)
    assert [(fit.layer, fit.projection) for fit in fits] == [(1, "mixer"), (1, "k")]
    assert sum(p.numel() for p in model.parameters()) == next(
        item.after for item in drawn.costs if item.metric == "params"
    )


def test_a_gate_on_heads_is_not_that_of_the_feed_forward_part(checkpoint: Make) -> None:
    source = read_source(checkpoint("llama"))
    rules = [{"match": ["gate"], "operator": "hdpl", "blocks": 4, "rank": 16}]
    (_, plain), (_, gated) = (
        execute(source, plan(source, {"projections": rules, "mixers": {"F": {"gate": gate}}}))
        for gate in (False, True)
    )
    errors = [fit.weight_error for fit in gated if fit.projection == "gate"]
    assert errors == [fit.weight_error for fit in plain]


def test_layers_without_a_part_leave_its_tensors_unused(checkpoint: Make) -> None:
    """Against the source with that part's output set to zero."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint("llama")
    source = read_source(folder)
    drawn = plan(source, {"layout": "FNFF", "ffn": [{"layers": "2", "dim": 0}]})
    gone = {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkvo"}
    gone |= {f"model.layers.2.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    gone |= {"model.layers.1.input_layernorm.weight", "model.layers.2.post_attention_layernorm.weight"}
    assert set(drawn.unused) == gone
    assert drawn.count("kept") == len(drawn.tensors)
    assert drawn.export.reasons == (
        "LlamaForCausalLM: has no N layers",
        "LlamaForCausalLM: has feed-forward parts in all layers",
    )
    model, fits = execute(source, drawn, calibration=TEXT)
    assert fits == ()
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs.model.layers[1].self_attn.o_proj.weight.zero_()
        theirs.model.layers[2].mlp.down_proj.weight.zero_()
    tokens = torch.randint(61, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(tokens)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_transplants_and_fits_pass_layers_without_parts(checkpoint: Make) -> None:
    """The calibration text runs through all layers."""
    source = read_source(checkpoint("llama"))
    rules = [{"match": ["up"], "operator": "hdpl", "blocks": 4, "rank": 4}]
    design = {"layout": "NFGF", "ffn": [{"layers": "0,1", "dim": 0}], "projections": rules}
    _, fits = execute(source, plan(source, design), calibration=TEXT)
    assert [(fit.layer, fit.projection) for fit in fits] == [(2, "mixer"), (2, "up"), (3, "up")]


def test_a_wider_part_is_refused(checkpoint: Make) -> None:
    source = read_source(checkpoint("llama"))
    with pytest.raises(UserError, match=r"ffn\[0\].dim = 49: must be"):
        plan(source, {"ffn": [{"layers": 1, "dim": 49}]})
