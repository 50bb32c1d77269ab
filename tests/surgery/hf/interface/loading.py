"""Rows: saving and loading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import surgery  # noqa: F401 (registers the model)
from surgery.hf.export import save
from tests.surgery.hf.interface.cases import TOKENS, Case, close
from tests.surgery.hf.interface.rows import Row

GROUP = "from_pretrained"
SAVE = "save_pretrained"
HALF = {"atol": 0.2, "rtol": 0.2}


@contextmanager
def saved(model: Any, **options: Any) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, **options)
        yield Path(folder)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=TOKENS).logits.float()
    return result


def loaded(**options: Any) -> Any:
    """Logits of the loaded model, and its class."""

    def check(case: Case) -> None:
        with saved(case.ours) as folder:
            again = AutoModelForCausalLM.from_pretrained(folder, **options)
            assert type(again) is type(case.ours)
            close(logits_of(again.eval()), logits_of(case.ours))

    return check


def shards(case: Case) -> None:
    with saved(case.ours, max_shard_size="8KB") as folder:
        assert len(list(folder.glob("*.safetensors"))) > 1
        close(logits_of(AutoModelForCausalLM.from_pretrained(folder)), logits_of(case.ours))


def given_state(case: Case) -> None:
    state = {name: 0.5 * tensor for name, tensor in case.ours.state_dict().items()}
    with saved(case.ours, state_dict=dict(state)) as folder:
        again = AutoModelForCausalLM.from_pretrained(folder)
    close(dict(again.state_dict()), state)


def in_dtype(name: str) -> Any:
    def check(case: Case) -> None:
        with saved(case.ours) as folder:
            for dtype in (torch.bfloat16, torch.float64, "auto") if name == "dtype" else (torch.float64,):
                again = AutoModelForCausalLM.from_pretrained(folder, **{name: dtype})
                wanted = torch.float32 if dtype == "auto" else dtype
                assert {p.dtype for p in again.parameters()} == {wanted}
                if wanted != torch.bfloat16:
                    close(logits_of(again), logits_of(case.ours))
                else:
                    close(again.state_dict(), case.ours.to(dtype).state_dict())
                    case.ours.float().load_state_dict(
                        AutoModelForCausalLM.from_pretrained(folder).state_dict()
                    )

    return check


def offloaded(case: Case) -> None:
    """Layers on disk are brought in for each pass, those inside an operator too."""
    from accelerate import disk_offload

    with saved(case.ours) as folder, TemporaryDirectory() as disk:
        again = AutoModelForCausalLM.from_pretrained(folder)
        disk_offload(again, disk, execution_device="cpu")
        assert any(p.device.type == "meta" for p in again.parameters())
        close(logits_of(again), logits_of(case.ours))


def from_config(case: Case) -> None:
    """The architecture, with weights of its own."""
    with saved(case.ours) as folder:
        config = AutoConfig.from_pretrained(folder)
    assert config.to_diff_dict() == case.ours.config.to_diff_dict()
    again = AutoModelForCausalLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in case.ours.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    assert logits_of(again).isfinite().all()


def attention(name: str) -> Any:
    """Both are the same mathematics; ours is computed by SDPA either way."""

    def check(case: Case) -> None:
        with saved(case.ours) as folder:
            again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=name)
        close(logits_of(again), logits_of(case.ours))
        if case.theirs is not None:
            case.theirs.set_attn_implementation(name)
            close(logits_of(again), logits_of(case.theirs))

    return check


def misshapen(case: Case) -> None:
    state = {**case.ours.state_dict(), "model.norm.weight": torch.ones(5)}
    with saved(case.ours, state_dict=state) as folder:
        AutoModelForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True)


def incomplete(case: Case) -> None:
    state = case.ours.state_dict()
    del state["model.norm.weight"]
    with saved(case.ours, state_dict=state) as folder:
        AutoModelForCausalLM.from_pretrained(folder)


def other_size(case: Case) -> None:
    with saved(case.ours) as folder:
        AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=7)


def info(case: Case) -> None:
    with saved(case.ours) as folder:
        again, result = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(result[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    close(logits_of(again), logits_of(case.ours))


def resized(case: Case) -> None:
    """Rows are added or cut off, and stay so in the file."""
    before = logits_of(case.ours)
    for model in case.both:
        model.resize_token_embeddings(70, mean_resizing=False)
    with saved(case.ours) as folder:
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert again.config.vocab_size == again.model.architecture.backbone.vocab_size == 70
        assert logits_of(again).shape[-1] == 70
        close(logits_of(again)[..., :61], before)
        again.resize_token_embeddings(61)
        close(logits_of(again), before)
        again.resize_token_embeddings(pad_to_multiple_of=32)
        assert logits_of(again).shape[-1] == 64


def exported(case: Case) -> None:
    """The folder that `nas` writes, and the one that transformers writes from it."""
    with TemporaryDirectory() as folder:
        save(case.ours.model, Path(folder) / "a", generation_config={"top_k": 7, "do_sample": True})
        first = AutoModelForCausalLM.from_pretrained(Path(folder) / "a")
        first.save_pretrained(Path(folder) / "b")
        second = AutoModelForCausalLM.from_pretrained(Path(folder) / "b")
    close(logits_of(first), logits_of(case.ours))
    close(logits_of(second), logits_of(case.ours))
    assert second.generation_config.top_k == 7
    assert second.model.architecture == case.ours.model.architecture


ROWS = [
    Row(SAVE, "save_directory", exported, "logits after a round trip, and after a second one"),
    Row(SAVE, "max_shard_size", shards, "logits of a model in pieces"),
    Row(SAVE, "state_dict", given_state, "the tensors that were given"),
    Row(GROUP, "pretrained_model_name_or_path", loaded(), "logits"),
    Row(GROUP, "dtype", in_dtype("dtype"), "tensors in this dtype; logits in float32 and float64"),
    Row(GROUP, "torch_dtype", in_dtype("torch_dtype"), "the same under its old name"),
    Row(GROUP, "device_map=auto", loaded(device_map="auto"), "logits", needs="accelerate"),
    Row(GROUP, "disk_offload of accelerate", offloaded, "logits", needs="accelerate"),
    Row(GROUP, "attn_implementation=sdpa", attention("sdpa"), "logits"),
    Row(GROUP, "attn_implementation=eager", attention("eager"), "logits: computed by SDPA all the same"),
    Row(GROUP, "attn_implementation=flex_attention", loaded(attn_implementation="flex_attention"),
        "mixers bring kernels of their own", "flex"),
    Row(GROUP, "output_loading_info", info, "logits, and nothing missing"),
    Row(GROUP, "ignore_mismatched_sizes", misshapen, "random numbers would stand in for weights",
        "wrong shape"),
    Row(GROUP, "a checkpoint without some tensors", incomplete, "random numbers would stand in for weights",
        "lacks 1 tensors"),
    Row(GROUP, "num_hidden_layers and other sizes", other_size, "the architecture alone says what is built",
        "num_hidden_layers = 7"),
    Row("from_config", "config", from_config, "names and shapes of tensors, and finite logits"),
    Row("resize_token_embeddings", "new_num_tokens, pad_to_multiple_of", resized, "logits of the old tokens"),
]  # fmt: skip
