"""Heal several designs of one checkpoint, with its control, and print a line of JSON for each.

    python examples/heal_designs.py MODEL TEXT SAMPLE --design g15=g15.yaml --design control= --seeds 3

MODEL is a checkpoint that `nas apply` reads, TEXT a folder that `nas data prepare` made with its tokenizer,
SAMPLE a .jsonl.gz file of other text to measure on. A design is an architecture file without a backbone; an
empty one is the model itself, the control. The model is read once.
"""

from __future__ import annotations

import argparse
import gzip
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from studies.data import TokenData
from studies.evaluation.evaluation import evaluate_model
from studies.healing.heal import heal
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher
from studies.training.devices import pick_device
from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel, read_source

WINDOW = 512  # tokens of a sequence of the calibration text and of the sample


def read_sample(path: Path, tokenizer: Any) -> torch.Tensor:
    """Return the token ids of a sample, each document with its end."""
    ids: list[int] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            ids += [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(ids)


def run(
    source: SourceModel, design: str, teacher: Teacher, data: TokenData, sample: torch.Tensor, tokenizer: Any,
    settings: HealSettings, args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Rewrite, heal and measure one design."""
    planned = plan(source, design or {})
    ids = data.tokens("train")[: args.calibrate_tokens]
    start = [ids[index : index + WINDOW].tolist() for index in range(0, len(ids), WINDOW)]
    model, _ = execute(source, planned, calibration=start, device=teacher.device)
    on_gpu = teacher.device.type == "cuda"

    def measured(prompts: int = 0) -> dict[str, Any]:
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            return evaluate_model(
                model.float().to(teacher.device), sample, teacher=teacher.model, tokenizer=tokenizer,
                lengths=(args.seq_len,), max_tokens=args.sample_tokens, prompts=prompts,
            ).to_dict()  # fmt: skip

    before = measured()
    healing = heal(model, planned, teacher, data, settings)
    return {"before": before, "after": measured(args.prompts), "healing": healing.to_dict()}


def main() -> None:
    """Read the command line and run every design with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("sample", type=Path)
    parser.add_argument("--design", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=4_702_208)
    parser.add_argument("--align-tokens", type=int, default=0)
    parser.add_argument("--seq-len", type=int, default=WINDOW)
    parser.add_argument("--loss", default="both")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--lr-new", type=float)
    parser.add_argument("--calibrate-tokens", type=int, default=32_768)
    parser.add_argument("--sample-tokens", type=int, default=65_536)
    parser.add_argument("--prompts", type=int, default=100, help="per retrieval task")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    from transformers import AutoTokenizer

    source, data = read_source(args.model), TokenData.open(args.text)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    sample = read_sample(args.sample, tokenizer)
    teacher = Teacher(source, pick_device(args.device))
    for name, _, design in (item.partition("=") for item in args.design):
        for seed in range(args.seeds):
            settings = HealSettings(
                tokens=args.tokens, align_tokens=args.align_tokens, seq_len=args.seq_len, loss=args.loss,
                lr=args.lr, lr_new=args.lr_new, eval_tokens=args.sample_tokens, seed=seed,
            )  # fmt: skip
            result = run(source, design, teacher, data, sample, tokenizer, settings, args)
            print(json.dumps({"design": name, "seed": seed, **result}), flush=True)


if __name__ == "__main__":
    main()
