"""`import surgery` registers the model whenever transformers comes, and costs nothing; without it, the
source beside the weights is enough. In fresh processes, as users do it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from surgery.hf.export import save
from surgery.hf.remote_code import sources
from tests.conftest import ROOT
from tests.models import architecture, build

HDPL = [{"match": ["gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 6}]

LOAD = """
from transformers import AutoConfig, AutoModelForCausalLM
import torch
config = AutoConfig.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
print(type(model).__module__, float(model(torch.arange(1, 9)[None]).logits.sum()))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    model = build(architecture("FGDWSK", num_layers=6, projections=HDPL, loops=2))
    folder = tmp_path_factory.mktemp("saved") / "my-model.v1"
    save(model, folder)
    with torch.no_grad():
        return folder, float(model.head(model(torch.arange(1, 9)[None])).sum())


def fresh(code: str, *, isolated: bool = False, cwd: Path, **environment: str) -> str:
    """Output of a new interpreter; `isolated`: in which `surgery` can't be imported."""
    if isolated:
        code = "import sys; sys.modules['surgery'] = None\n" + code  # even where it is installed
    command = [sys.executable, *(["-I"] if isolated else []), "-c", code]
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if not isolated:
        inherited["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **environment, "HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_import_alone_is_light(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'safetensors', 'yaml', 'numpy'}"
    assert fresh(f"import sys, surgery; print(sorted({heavy} & set(sys.modules)))", cwd=tmp_path) == "[]"


@pytest.mark.parametrize(
    "before",
    [
        "import surgery",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\nimport surgery",
        pytest.param(
            "import transformers, surgery\nfrom surgery.hf.modeling import NasForCausalLM",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["surgery first", "auto classes first", "transformers and our class first"],
)
def test_auto_classes_know_the_model(before: str, saved: tuple[Path, float], tmp_path: Path) -> None:
    folder, expected = saved
    module, total = fresh(f"{before}\nFOLDER = {str(folder)!r}{LOAD}", cwd=tmp_path).split()
    assert module == "surgery.hf.modeling"
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_without_this_package_the_source_in_the_folder_is_used(
    saved: tuple[Path, float], tmp_path: Path
) -> None:
    folder, expected = saved
    code = f"""
import importlib.util, sys
from transformers import AutoModelForCausalLM
import torch
sys.modules["jaxtyping"] = None  # not needed either
try:
    import surgery
except ImportError:
    pass
else:
    raise SystemExit("surgery must not be importable here")
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
ids = torch.arange(1, 9)[None]
settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
settings["attention_mask"] = torch.ones_like(ids)
assert torch.equal(model.generate(ids, **settings), model.generate(ids, use_cache=False, **settings))
model.save_pretrained("again")  # what was loaded from source can be saved and loaded again
model = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
print(type(model).__module__.split(".")[0], float(model(ids).logits.sum()))
"""
    module, total = fresh(
        code, isolated=True, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules")
    ).split()
    assert module == "transformers_modules"
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_source_is_one_file(saved: tuple[Path, float], tmp_path: Path) -> None:
    """The same text each time, also where Triton is not installed; the modules' text can be read again."""
    from surgery.hf.remote_code import FILE, bundle

    folder, expected = saved
    assert [path.name for path in folder.glob("*.py")] == [FILE]
    assert (folder / FILE).read_text(encoding="utf-8") == bundle()
    code = f"""
import inspect, sys
sys.modules["triton"] = None
from transformers import AutoModelForCausalLM
import torch
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
block = type(model.model.layers[0])
assert "class Block" in inspect.getsource(block)
print(inspect.getsourcelines(block)[1], float(model(torch.arange(1, 9)[None]).logits.sum()))
"""
    line, total = fresh(code, isolated=True, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules")).split()
    text = (ROOT / "surgery" / "model.py").read_text(encoding="utf-8").splitlines()
    assert text[int(line) - 1].startswith("class Block")
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_exported_source_needs_nothing_that_is_not_there() -> None:
    import ast

    result = sources()
    assert {"configuration_nas", "modeling_nas", "surgery_model"} <= result.keys()
    for name, text in result.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in result, f"{name} imports {node.module}"
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("surgery", "jaxtyping"), name
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"surgery", "jaxtyping"}, name
