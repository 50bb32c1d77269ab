"""A model folder is read as transformers reads it: the same files and numbers, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surgery.apply.source import read_source
from surgery.config.problems import UserError
from tests.surgery.apply.conftest import random_model

State = dict[str, Tensor]
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two-layer Llamas with and without a tied head."""
    result = {}
    for tied in (False, True):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("original") / "model"
        random_model("llama", num_hidden_layers=2, tie_word_embeddings=tied).save_pretrained(folder)
        result[tied] = folder
    return result


@pytest.fixture
def model(original: dict[bool, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[False], tmp_path / "model"))


@pytest.fixture
def tied(original: dict[bool, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[True], tmp_path / "tied"))


def single(folder: Path) -> Path:
    return folder / "model.safetensors"


def write(state: State, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {"format": "pt"})


def rename(folder: Path, change: Callable[[str], str]) -> None:
    write({change(name): tensor for name, tensor in load_file(single(folder)).items()}, single(folder))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(folder: Path, *names: str, keep: bool = False, **index: Any) -> None:
    """Splits the weights over files, with an index."""
    state = load_file(single(folder))
    if not keep:
        single(folder).unlink()
    weight_map = {name: names[number % len(names)] for number, name in enumerate(state)}
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        write({key: state[key] for key, file in weight_map.items() if file == name}, folder / name)
    data = {"metadata": {"total_size": 1}, "weight_map": weight_map, **index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(data))


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def loaded_by_transformers(folder: Path) -> State:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"], info
    return dict(model.state_dict())


def assert_the_same_numbers(folder: Path) -> tuple[str, ...]:
    theirs, source = loaded_by_transformers(folder), read_source(folder)
    source.check_values()
    for name in source.tensors:
        assert torch.equal(source.tensor(name).float(), theirs[name]), name
    assert source.tensors.keys() >= theirs.keys() - {"lm_head.weight"}
    assert dict(source.read(source.tensors)).keys() == source.tensors.keys()
    return source.notes


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_source(folder)
    return str(caught.value)


def other_numbers(folder: Path, name: str) -> None:
    write({key: tensor + 1 for key, tensor in load_file(single(folder)).items()}, folder / name)


def stale_index(folder: Path) -> None:
    shard(folder, A, B, keep=True)
    other_numbers(folder, A)


def stale_shard(folder: Path) -> None:
    other_numbers(folder, "model-00003-of-00003.safetensors")
    shard(folder, A, B)


def in_two_shards(folder: Path) -> None:
    """The index names the first, transformers takes the last."""
    shard(folder, A, B)
    first = load_file(folder / A)
    name = next(iter(first))
    write({**load_file(folder / B), name: first[name] + 1}, folder / B)


def explicit(folder: Path) -> None:
    other_numbers(folder, "second.safetensors")
    edit(folder, transformers_weights="second.safetensors")


def explicit_index(folder: Path) -> None:
    shard(folder, A, B)
    (folder / "model.safetensors.index.json").rename(folder / "else.safetensors.index.json")
    edit(folder, transformers_weights="else.safetensors.index.json")


def linked(folder: Path) -> None:
    """Turn files into links into blobs, as in the Hub's cache."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: None, None),
        (lambda folder: shard(folder, A, B), None),
        (lambda folder: shard(folder, "in/a.safetensors", "in/b.safetensors"), None),
        (stale_index, "not read, as in transformers, which takes model.safetensors"),
        (stale_shard, "model-00003-of-00003.safetensors: not read"),
        (lambda folder: other_numbers(folder, "model.fp16.safetensors"), "model.fp16.safetensors: not read"),
        (lambda folder: other_numbers(folder, "consolidated.safetensors"), "consolidated.safetensors: not"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"?"), "pytorch_model.bin: not read"),
        (in_two_shards, "the latter's numbers are taken"),
        (explicit, "which takes second.safetensors"),
        (explicit_index, None),
        (linked, None),
        (lambda folder: edit(folder, architectures=["Nothing"]), None),
        (lambda folder: edit(folder, auto_map={"AutoConfig": "x.Y"}), "custom code is ignored"),
    ],
)
def test_the_files_that_transformers_takes(model: Path, change: Change, said: str | None) -> None:
    change(model)
    notes = assert_the_same_numbers(model)
    assert any(said in note for note in notes) if said else not notes


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"model.{name}",
        lambda name: name.replace("lm_head", "model.lm_head"),
        lambda name: name.replace("model.layers.1", "layers.1"),
    ],
)
def test_the_prefixes_that_transformers_adds_and_removes(model: Path, change: Callable[[str], str]) -> None:
    rename(model, change)
    assert_the_same_numbers(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name,
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.embed_tokens", "lm_head"),
        lambda name: name.replace("model.embed_tokens", "model.lm_head"),
    ],
)
def test_of_a_tied_pair_either_is_enough(tied: Path, change: Callable[[str], str]) -> None:
    rename(tied, change)
    assert_the_same_numbers(tied)


def test_old_buffers_are_no_weights(model: Path) -> None:
    state = load_file(single(model))
    write({**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, single(model))
    assert_the_same_numbers(model)


def compiled_blocks(name: str) -> str:
    return name.replace("model.layers.1.", "model.layers.1._orig_mod.")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"_orig_mod.{name}", ["`_orig_mod.`", "torch.compile", "model._orig_mod.save"]),
        (compiled_blocks, ["9 tensors", "torch.compile"]),
        (lambda name: f"module.{name}", ["`module.`", "DDP", "model.module.save"]),
        (lambda name: f"module._orig_mod.{name}", ["`_orig_mod.` and `module.`", "torch.compile", "DDP"]),
        (lambda name: f"base_model.model.{name}", ["PEFT", "merge_and_unload"]),
        (lambda name: name.replace("q_proj", "q_proj.base_layer"), ["2 tensors", "merge_and_unload"]),
        (lambda name: f"_fsdp_wrapped_module.{name}", ["FSDP", "full state dict"]),
        (lambda name: f"language_model.{name}", ["multimodal", "language model alone"]),
        (lambda name: f"strange.{name}", ["`strange.`", "remove"]),
    ],
)
def test_a_wrapper_is_named_with_the_way_out(
    model: Path, change: Callable[[str], str], said: list[str]
) -> None:
    rename(model, change)
    text = refused(model)
    assert all(words in text for words in said), text
    assert len(text.splitlines()) == 2, text  # one problem, not one per tensor
    with pytest.raises(AssertionError, match="missing_keys"):
        loaded_by_transformers(model)


def add(folder: Path, **tensors: Tensor) -> None:
    write(load_file(single(folder)) | dict(tensors), single(folder))


def drop(folder: Path, *names: str) -> None:
    write({name: t for name, t in load_file(single(folder)).items() if name not in names}, single(folder))


def retype(folder: Path, part: str, dtype: torch.dtype) -> None:
    state = load_file(single(folder))
    write({name: t.to(dtype) if part in name else t for name, t in state.items()}, single(folder))


def in_a_subfolder(folder: Path) -> None:
    (folder / "weights").mkdir()
    single(folder).rename(folder / "weights" / "model.safetensors")


def whole_in_a_subfolder(folder: Path) -> None:
    inside = folder / "snapshots" / "abc"
    inside.mkdir(parents=True)
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(inside / path.name)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def lose(folder: Path, name: str) -> None:
    shard(folder, A, B)
    (folder / name).unlink()


def points_at_the_wrong_type(folder: Path) -> None:
    shard(folder, A, B, weight_map={"model.norm.weight": 7, "lm_head.weight": None})


X = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "adapter_config.json").write_text("{}"), ["adapter_config.json", "merge_and_unload"]),
        (lambda f: add(f, **{"model.layers.0.self_attn.q_proj.lora_A.weight": X}), ["PEFT", "merge_and"]),
        (lambda f: add(f, **{"model.layers.0.mlp.up_proj.weight_scale_inv": X}), ["quantised", "full-prec"]),
        (lambda f: add(f, **{"model.layers.0.self_attn.qkv_proj.weight": X}), ["several projections"]),
        (lambda f: add(f, **{"layers.0.attention.wq.weight": X}), ["original release", "convert"]),
        (lambda f: add(f, **{"score.weight": X}), ["does not predict tokens"]),
        (lambda f: add(f, **{"norm.weight": X}), ["model.norm.weight: is there twice"]),
        (lambda f: drop(f, "lm_head.weight"), ["lm_head.weight", "tie_word_embeddings is false", "random"]),
        (lambda f: drop(f, "model.embed_tokens.weight"), ["embed_tokens", "tie_word_embeddings is false"]),
        (lambda f: drop(f, "model.norm.weight"), ["model.norm.weight: is missing", "random"]),
        (lambda f: write({}, single(f)), ["hold no tensors"]),
        (lambda f: retype(f, "mlp", torch.float8_e4m3fn), ["F8_E4M3", "model.layers.[0-1].mlp.up_proj"]),
        (lambda f: retype(f, "lm_head", torch.int8), ["lm_head.weight = 'I8'", "floating-point"]),
        (lambda f: rewrite(f, "model.safetensors", b""), ["not a readable", "it is empty"]),
        (lambda f: rewrite(f, "model.safetensors", b"\xff" * 99), ["not a readable"]),
        (lambda f: rewrite(f, "model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), ["LFS"]),
        (lambda f: rewrite(f, "model.safetensors", single(f).read_bytes()[:-9]), ["download it again"]),
        (lambda f: single(f).rename(f / "pytorch_model.bin"), ["pickle", "save the model again"]),
        (lambda f: single(f).rename(f / "model.gguf"), ["GGUF"]),
        (lambda f: single(f).rename(f / "model.fp16.safetensors"), ["variant", "rename it"]),
        (lambda f: single(f).rename(f / "consolidated.safetensors"), ["consolidated", "save_pretrained"]),
        (lambda f: single(f).unlink(), ["model.safetensors: is missing"]),
        (in_a_subfolder, ["model.safetensors: is missing", "model/weights"]),
        (whole_in_a_subfolder, ["config.json: is missing", "snapshots/abc"]),
        (lambda f: lose(f, A), [f"{A}: is missing, model.safetensors.index.json names it"]),
        (lambda f: lose(f, "model.safetensors.index.json"), ["index.json: is missing", "2 shards"]),
        (points_at_the_wrong_type, ["model.norm.weight = 7", "lm_head.weight: must be the name of a file"]),
        (lambda f: shard(f, A, weight_map={"a": "../b.safetensors"}), ["leads out of the folder"]),
        (lambda f: shard(f, A, weight_map={"a": "b.bin"}), ["is not a .safetensors file"]),
        (lambda f: shard(f, A, weight_map=[1]), ["weight_map = 'a list'"]),
        (lambda f: edit(f, transformers_weights="../x.safetensors"), ["transformers_weights", "leads out"]),
        (lambda f: edit(f, transformers_weights=3), ["transformers_weights = 3"]),
        (lambda f: edit(f, transformers_weights="x.safetensors"), ["x.safetensors", "is missing"]),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_is_refused_with_the_reason(
    model: Path, change: Change, said: list[str]
) -> None:
    change(model)
    text = refused(model)
    assert all(words in text for words in said), text


def test_a_head_alone_is_not_enough_where_nothing_is_tied(tied: Path) -> None:
    drop(tied, "model.embed_tokens.weight")
    assert "model.embed_tokens.weight: is missing" in refused(tied)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "64", "num_hidden_layers": [2]}, ["hidden_size = '64'", "num_hidden_layers = [2]"]),
        ({"vocab_size": None}, ["vocab_size = 'null': must be a whole number"]),
        ({"vocab_size": 10**12}, ["vocab_size", "at most"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers = 0: must be at least 1"]),
        ({"num_hidden_layers": -1, "num_attention_heads": 0}, ["num_hidden_layers", "num_attention_heads"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "at most 4096"]),
        ({"num_key_value_heads": 0, "head_dim": 0}, ["num_key_value_heads = 0", "head_dim = 0"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps = nan: must be a number"]),
        ({"rope_scaling": "linear"}, ["rope_scaling = 'linear': must be an object, not a string"]),
        ({"rope_parameters": {"rope_type": ["x"], "rope_theta": "1e4"}}, ["rope_type", "rope_theta"]),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, ["factor = '2'"]),
        ({"quantization_config": "gptq"}, ["quantization_config = 'gptq': must be an object"]),
        ({"tie_word_embeddings": "false"}, ["tie_word_embeddings = 'false': must be true or false"]),
        ({"hidden_act": ["silu"]}, ["hidden_act"]),
        ({"layer_types": 3}, ["layer_types = 3"]),
        ({"sliding_window": "x"}, ["sliding_window = 'x'"]),
        ({"model_type": ["llama"]}, ["model_type"]),
        ({"model_type": None}, ["model_type", "can't be carried"]),
        ({"use_cache": []}, ["use_cache = []", "transformers does not accept it"]),
        ({"dtype": "float99"}, ["transformers does not accept it"]),
        ({"auto_map": 3}, ["auto_map = 3"]),
    ],
)
def test_config_fields_of_the_wrong_type_are_named(
    model: Path, changes: dict[str, Any], said: list[str]
) -> None:
    edit(model, **changes)
    text = refused(model)
    assert all(words in text for words in said), text


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content", ["[]", "3", "null", '"x"', "{", "", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_json_files_that_hold_no_object_are_named(model: Path, name: str, content: str) -> None:
    (model / name).write_text(content, encoding="utf-8")
    assert name in refused(model)


def test_everything_that_is_wrong_comes_at_once(model: Path) -> None:
    edit(model, hidden_size="32", num_attention_heads=None)
    (model / "generation_config.json").write_text("[]")
    single(model).rename(model / "model.bf16.safetensors")
    text = refused(model)
    for words in ("hidden_size", "num_attention_heads", "generation_config.json", "model.bf16.safetensors"):
        assert words in text, text
