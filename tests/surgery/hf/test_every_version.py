"""An export made with the locked versions generates the same under whatever versions are installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.hf.configuration import AUTO_MAP
from surgery.hf.remote_code import write_remote_code
from tests.lock_export import EXPECTED, FOLDER, PROMPTS, settings

from .test_autoload import fresh


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((FOLDER / EXPECTED).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("cache", [True, False])
def test_this_package_generates_the_same(cache: bool, expected: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    prompts = torch.tensor(PROMPTS)
    ids = model.generate(prompts, use_cache=cache, **settings(prompts))
    assert ids.tolist() == expected["ids"]
    with torch.no_grad():
        logits = model(ids).logits[:, -1]
    torch.testing.assert_close(logits, torch.tensor(expected["last_logits"]), rtol=1e-4, atol=1e-4)


def test_one_sequence_padded_generates_the_same(expected: dict[str, Any]) -> None:
    """A batch with a shorter prompt, padded on the left."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    prompts = torch.tensor([[0, 0, 0, *PROMPTS[0]], [1, 2, 3, *PROMPTS[1]]])
    options = settings(prompts)
    options["attention_mask"][0, :3] = 0
    ids = model.generate(prompts, **options)
    assert ids[0, 3:].tolist() == expected["ids"][0]


def test_its_own_source_generates_the_same(expected: dict[str, Any], tmp_path: Path) -> None:
    """In a process without this package, by the source beside the weights."""
    folder = tmp_path / "export"
    shutil.copytree(FOLDER, folder)
    write_remote_code(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = AUTO_MAP  # the stored one is of a time when the source was many files
    (folder / "config.json").write_text(json.dumps(config))
    code = f"""
import json, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
prompts = torch.tensor({PROMPTS})
options = dict(max_new_tokens={settings(torch.tensor(PROMPTS))["max_new_tokens"]}, do_sample=False,
    eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(prompts))
print(json.dumps([model.generate(prompts, use_cache=cache, **options).tolist() for cache in (True, False)]))
"""
    text = fresh(code, isolated=True, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert json.loads(text) == [expected["ids"], expected["ids"]]
