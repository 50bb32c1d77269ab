"""Model folders that others made, given to `nas eval`, `nas generate` and `nas data prepare`.

No code of theirs is run unasked, nothing is read from standard input, no weight is made up, and tokens that a
model has no row for are named.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

Nas = Callable[..., Result]


class NoInput(io.TextIOBase):
    def readline(self, *_: Any) -> str:
        raise AssertionError("standard input was read")

    read = readline


@pytest.fixture
def nas(nas: Nas, monkeypatch: pytest.MonkeyPatch) -> Nas:
    """Run commands as other tests do; reading standard input fails."""

    def ask(*_: object) -> str:
        raise AssertionError("standard input was asked")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys, "stdin", NoInput())
    return nas


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.fixture
def ours(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "ours"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def generate(nas: Nas, folder: Path, *options: object, text: str = "The") -> Result:
    return nas("generate", folder, text, "--tokens", 3, "--temperature", 0, *options)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that foreign code writes when it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)  # which is where an earlier test had its cache
    return tmp_path / "ran"


def bring_code(folder: Path, marker: Path, model_type: str) -> None:
    """Code of its own beside the weights: a Llama under another name that leaves a mark."""
    mark = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (folder / "configuration_mine.py").write_text(
        f"{mark}from transformers import LlamaConfig\nclass MineConfig(LlamaConfig):\n"
        f"    model_type = {model_type!r}\n"
    )
    (folder / "modeling_mine.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_mine import MineConfig\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    code = {"AutoConfig": "configuration_mine.MineConfig"}
    code["AutoModelForCausalLM"] = "modeling_mine.MineForCausalLM"
    edit(folder / "config.json", model_type=model_type, auto_map=code)


def test_foreign_code_is_run_only_when_trusted(nas: Nas, folder: Path, marker: Path) -> None:
    plain = generate(nas, folder).stdout
    bring_code(folder, marker, "mine")
    for result in (generate(nas, folder), nas("eval", folder)):
        assert result.exit_code == 2
        assert "auto_map" in str(result.exception)
        assert "--trust-remote-code" in str(result.exception)
    assert not marker.exists()
    trusted = generate(nas, folder, "--trust-remote-code")
    assert trusted.exit_code == 0
    assert trusted.stdout == plain
    assert marker.exists()


def test_a_family_that_transformers_has_is_loaded_by_transformers(
    nas: Nas, folder: Path, marker: Path
) -> None:
    plain = generate(nas, folder).stdout
    bring_code(folder, marker, "llama")
    result = generate(nas, folder)
    assert result.stdout == plain
    assert "own code is not run" in result.stderr
    assert not marker.exists()


def test_models_of_this_package_never_run_what_stands_beside_them(nas: Nas, ours: Path, marker: Path) -> None:
    plain = generate(nas, ours).stdout
    for path in ours.glob("*.py"):
        path.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    for options in ((), ("--trust-remote-code",)):
        result = generate(nas, ours, *options)
        assert result.exit_code == 0
        assert result.stdout == plain
        assert not result.stderr.startswith("warning")
    assert not marker.exists()


def test_custom_generation_is_not_run(nas: Nas, folder: Path, marker: Path) -> None:
    (folder / "custom_generate").mkdir()
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\ndef generate(*a, **k): ...\n"
    (folder / "custom_generate" / "generate.py").write_text(code)
    assert generate(nas, folder).exit_code == 0
    assert not marker.exists()


def bring_tokenizer(folder: Path, marker: Path, name: str) -> None:
    (folder / "mine.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast\nclass Mine(PreTrainedTokenizerFast): ...\n"
    )
    code = {"AutoTokenizer": [None, "mine.Mine"]}
    edit(folder / "tokenizer_config.json", tokenizer_class=name, auto_map=code)


def test_a_tokenizer_that_needs_code_is_refused(
    nas: Nas, ours: Path, text_file: Path, marker: Path, tmp_path: Path
) -> None:
    bring_tokenizer(ours, marker, "Mine")
    for result in (generate(nas, ours), nas("eval", ours)):
        assert result.exit_code == 2
        assert "needs code of its own" in str(result.exception)
        assert "--trust-remote-code" in str(result.exception)
    result = nas("data", "prepare", text_file, "--tokenizer", ours, "-o", tmp_path / "data")
    assert result.exit_code == 2
    assert "needs code of its own" in str(result.exception)
    assert not marker.exists()
    assert generate(nas, ours, "--trust-remote-code").exit_code == 0
    assert marker.exists()


def test_of_a_tokenizer_that_transformers_has_no_code_is_run(
    nas: Nas, folder: Path, text_file: Path, marker: Path, tmp_path: Path
) -> None:
    bring_tokenizer(folder, marker, "PreTrainedTokenizerFast")
    assert generate(nas, folder).exit_code == 0
    result = nas("data", "prepare", text_file, "--tokenizer", folder, "-o", tmp_path / "data")
    assert result.exit_code == 0
    assert not marker.exists()


@pytest.mark.parametrize("auto_map", [3, "x", ["a"]])
def test_code_is_named_by_an_object(nas: Nas, folder: Path, auto_map: Any) -> None:
    edit(folder / "config.json", auto_map=auto_map)
    result = generate(nas, folder)
    assert result.exit_code == 2
    assert "auto_map" in str(result.exception)


@pytest.mark.parametrize("field", ["_attn_implementation", "attn_implementation"])
def test_kernels_of_the_hub_are_code_too(nas: Nas, folder: Path, ours: Path, field: str) -> None:
    for model in (folder, ours):
        edit(model / "config.json", **{field: "somebody/attention"})
        result = generate(nas, model)
        assert result.exit_code == 2
        assert f"{field} = 'somebody/attention': is a kernel from the Hub" in str(result.exception)
    edit(folder / "config.json", **{field: "eager"})
    assert generate(nas, folder).exit_code == 0


def test_code_that_does_not_show_its_embedding(nas: Nas, folder: Path, marker: Path) -> None:
    """Then its config's vocab_size is what tokens are checked against."""
    bring_code(folder, marker, "mine2")
    path = folder / "modeling_mine.py"
    hidden = "    def get_input_embeddings(self):\n        raise NotImplementedError\n"
    path.write_text(path.read_text() + hidden)
    add_token(folder, "<pad>")
    assert generate(nas, folder, "--trust-remote-code").exit_code == 0
    refused = generate(nas, folder, "--trust-remote-code", text="<pad>")
    assert "is token 320, but the model's tokens are 0 to 319" in str(refused.exception)


def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({change(name): tensor for name, tensor in state.items()}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"_orig_mod.{name}", "torch.compile"),
        (lambda name: f"base_model.model.{name}", "merge_and_unload"),
        (lambda name: f"module.{name}", "DDP"),
        (lambda name: name.replace("norm.weight", "norm.scale"), "is missing"),
    ],
)
def test_weights_that_are_not_there_are_not_made_up(
    nas: Nas, folder: Path, ours: Path, change: Callable[[str], str], said: str
) -> None:
    for model in (folder, ours):
        rename(model, change)
        result = generate(nas, model)
        assert result.exit_code == 2
        assert said in str(result.exception), result.exception


def test_weights_of_another_shape_are_listed(nas: Nas, folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)
    text = str(generate(nas, folder).exception)
    assert "must have shape [48, 32], by config.json" in text
    assert len(text.splitlines()) == 1 + 2 * 3


def test_tensors_that_are_not_used_are_said(nas: Nas, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {"model.layers.1.extra.weight": state["model.norm.weight"].clone()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    result = generate(nas, folder)
    assert result.exit_code == 0
    assert "model.layers.1.extra.weight: not used" in result.stderr


def test_an_adapter_is_not_left_out(nas: Nas, folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    for result in (generate(nas, folder), nas("eval", folder)):
        assert result.exit_code == 2
        assert "merge_and_unload" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("generation_config.json", "[]"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", '"x"'),
        ("added_tokens.json", "3"),
        ("tokenizer.json", "[]"),
    ],
)
def test_files_of_the_wrong_shape_are_named(nas: Nas, folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    for result in (generate(nas, folder), nas("eval", folder)):
        assert result.exit_code == 2
        assert name.removesuffix(".json") in str(result.exception)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("output_hidden_states", {"a": 1}, "must be true or false"),
        ("use_cache", "no", "must be true or false"), ("repetition_penalty", "high", "must be a number"),
        ("max_length", [20], "must be a number"),
    ],
)  # fmt: skip
def test_defaults_of_generate_of_the_wrong_kind_are_named(
    nas: Nas, folder: Path, name: str, value: object, rule: str
) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({name: value}))
    result = generate(nas, folder)
    assert result.exit_code == 2
    assert f"generation_config.json: {name}" in str(result.exception)
    assert rule in str(result.exception)


@pytest.mark.parametrize("number", [2**31, -1, 1.5, True, "7", None, 10**200])
@pytest.mark.parametrize("added", [True, False])
def test_ids_that_no_token_has_are_refused(nas: Nas, folder: Path, number: object, added: bool) -> None:
    """The tokenizers library ends the process for some of them."""
    data = json.loads((folder / "tokenizer.json").read_text())
    if added:
        data["added_tokens"][0]["id"] = number
    else:
        data["model"]["vocab"]["e"] = number
    (folder / "tokenizer.json").write_text(json.dumps(data))
    result = generate(nas, folder)
    assert result.exit_code == 2
    assert "must be a whole number from 0, below 16,777,216" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "value"), [("model_max_length", [1]), ("model_max_length", "long"), ("padding_side", "up")]
)
def test_settings_of_a_tokenizer_that_fail_when_it_is_used(
    nas: Nas, folder: Path, name: str, value: object
) -> None:
    edit(folder / "tokenizer_config.json", **{name: value})
    for result in (generate(nas, folder), nas("eval", folder)):
        assert result.exit_code == 2
        assert "the tokenizer can't be used" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "value"), [("num_hidden_layers", 2 * 10**12), ("num_hidden_layers", 5000), ("vocab_size", 2**40)]
)
def test_sizes_that_no_model_has_are_refused_before_it_is_built(
    nas: Nas, folder: Path, name: str, value: int
) -> None:
    edit(folder / "config.json", **{name: value})
    for result in (generate(nas, folder), nas("eval", folder)):
        assert result.exit_code == 2
        assert f"{name} = {value}: is larger than any model's" in str(result.exception)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(nas: Nas, folder: Path, text_file: Path, value: float) -> None:
    import torch

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refusals = {
        "can't generate": generate(nas, folder),
        "can't measure that model": nas("eval", folder, "--data", text_file, "--tokens", 64),
    }
    for title, result in refusals.items():
        assert result.exit_code == 2
        assert title in str(result.exception)
        assert "NaN or infinite" in str(result.exception)


def add_token(folder: Path, token: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([token])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["llama", "ours"])
def test_tokens_without_a_row_are_said(nas: Nas, folder: Path, ours: Path, tmp_path: Path, kind: str) -> None:
    model = folder if kind == "llama" else ours
    add_token(model, "<pad>")
    edit(model / "tokenizer_config.json", pad_token="<pad>")
    result = generate(nas, model)
    assert result.exit_code == 0
    assert "1 token has no row in the model, which has 320: such as '<pad>', 320" in result.stderr
    refused = generate(nas, model, text="<pad>hello")
    assert refused.exit_code == 2
    assert "'<pad>': is token 320, but the model's tokens are 0 to 319" in str(refused.exception)


def test_a_beginning_without_a_row_is_said(nas: Nas, folder: Path, tmp_path: Path) -> None:
    """The token that the tokenizer puts before every text."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    add_token(folder, "<s>")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 320)])
    tokenizer.save(str(folder / "tokenizer.json"))
    document = tmp_path / "a.txt"
    document.write_text("some text " * 20)
    for result in (generate(nas, folder), nas("eval", folder, "--data", document)):
        assert result.exit_code == 2
        assert "'<s>': is token 320" in str(result.exception)


@pytest.mark.parametrize("eos", [99999, [99999, -1], "x", [0, 99999]])
def test_special_tokens_out_of_range_have_no_effect(nas: Nas, folder: Path, eos: Any) -> None:
    edit(folder / "generation_config.json", eos_token_id=eos, pad_token_id=99999)
    result = generate(nas, folder)
    assert result.exit_code == 0
    assert "generation_config.json: eos_token_id" in result.stderr
    assert "the model's tokens are 0 to 319" in result.stderr


def test_padding_that_transformers_cannot_build_is_named(nas: Nas, folder: Path) -> None:
    edit(folder / "config.json", pad_token_id=320)
    result = generate(nas, folder)
    assert result.exit_code == 2
    assert "pad_token_id = 320: must be below vocab_size (320)" in str(result.exception)
