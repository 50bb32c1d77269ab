"""A small pretrained model, a space of its replacements, and a study of them begun as `nas search` does."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from nas_cli.opening import open_space
from studies.study import Study
from studies.workers.request import SearchRequest
from tests.llama import save_random_llama

CACHE = "cache_bytes@256"
SPACE = f"""
name: small
search:
  layers.mixer: {{choice: [keep, W: {{window: 16, sinks: 2}}, none]}}
  layers.ffn: {{choice: [keep, dim: 50%]}}
  layers.keep: "0"
objectives: {{kl: min, {CACHE}: min}}
library: {{fit_tokens: 512, seq_len: 64, score_tokens: 512, eval_tokens: 1024}}
"""


def save_model(folder: Path, prepared: Path, factor: float = 5) -> Path:
    """Save a Llama whose weights are those of transformers' initialisation times `factor`."""
    save_random_llama(folder, (prepared / "tokenizer").iterdir(), 320, num_hidden_layers=3)
    file = folder / "model.safetensors"
    tensors = {name: item if "norm" in name else factor * item for name, item in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def begin(space: Path, model: Path, prepared: Path, runs: Path) -> Study:
    """Open the study as `nas search SPACE --model MODEL --name small --data PREPARED --dir RUNS` does."""
    request = SearchRequest(
        open_space(str(space), str(model)), name="small", data=str(prepared), runs=runs, device="cpu"
    )
    request.check()
    study, _ = request.open(request.prepare(None))
    return study
