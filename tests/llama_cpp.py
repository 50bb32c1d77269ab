"""llama.cpp as an outside reference: its own converter, and greedy decoding in a process of its own.

`make test-all` installs both: PyPI's xllamacpp is llama.cpp with Python bindings, and the converter of model
folders comes from the source archive of the same version.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CONVERTER = Path(sys.prefix) / "llama.cpp" / "convert_hf_to_gguf.py"


class Refused(Exception):
    """llama.cpp's converter or loader fails; the message is the end of what it printed."""


def require() -> None:
    """Skip the test where llama.cpp is not installed."""
    if find_spec("xllamacpp") is None or not CONVERTER.is_file():
        pytest.skip("needs llama.cpp: `make test-all` installs it")


def convert(folder: Path, gguf: Path, *options: str) -> Path:
    """Write a model folder as a GGUF file in float32, with further options of the converter.

    Raises:
        Refused: the converter can't.
    """
    _run([str(CONVERTER), str(folder), "--outtype", "f32", "--outfile", str(gguf), *options])
    return gguf


def greedy(gguf: Path, prompt: str | list[int], count: int) -> tuple[list[int], str]:
    """Return the ids and the text of `count` tokens behind a prompt, which is a text or ids.

    Raises:
        Refused: llama.cpp can't load the file.
    """
    request = json.dumps({"gguf": str(gguf), "prompt": prompt, "count": count})
    answer = json.loads(_run(["-m", "tests.llama_cpp", request]).splitlines()[-1])
    return answer["tokens"], answer["content"]


def _run(arguments: list[str]) -> str:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise Refused(done.stderr[-2000:])
    return done.stdout


def _serve(request: dict[str, object]) -> None:
    """Print llama.cpp's answer as JSON. Its caches are float32, as those of the model in transformers."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_ctx = 256
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 2
    params.warmup = False
    server = xllamacpp.Server(params)
    answer = server.handle_completions({
        "prompt": request["prompt"], "max_tokens": request["count"],
        "temperature": 0.0, "ignore_eos": True,
        "return_tokens": True, "verbose": True,
    })  # fmt: skip
    print(json.dumps(answer["__verbose"]), flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
