"""Train offsets of latents, and LoRA with as many parameters, on one text with several seeds.

    python examples/offsets_and_lora.py MODEL TEXT --lora o k --seeds 0 1 2

MODEL is a folder of `nas train` with HDPL projections, TEXT a folder that `nas data prepare` made with its
tokenizer. Both kinds of adapters are trained by the same loop on the same batches, latents at their means.
The learning rate of each kind is the one with the lowest held-out loss on the first seed. Rows of a table are
printed, after the loss of the model without an adapter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import torch
from peft import LoraConfig, inject_adapter_in_model

from studies.data import TokenData
from studies.evaluation.model_folder import load
from studies.healing.parts import training_only
from studies.latents.objective import WithoutNoise
from studies.latents.training import train_offsets
from studies.training.loop import train
from studies.training.settings import TrainSettings
from studies.training.validation import evaluate
from surgery.latents import latent_projections, ranks_of
from surgery.model import HybridLM
from surgery.projections.dense.module import Dense

CPU = torch.device("cpu")


def offsets(model: HybridLM, text: TokenData, settings: TrainSettings, seed: int) -> tuple[int, float]:
    """Train an offset per latent; return the number of parameters and the held-out loss at the end."""
    trained = train_offsets(model, text, settings, seed=seed, device=CPU)
    return trained.parameters, trained.result.val_loss


def lora(
    model: HybridLM, text: TokenData, settings: TrainSettings, seed: int, name: str
) -> tuple[int, float]:
    """Train LoRA of rank 1 (alpha 2) on the dense projection `name` of every layer; likewise."""
    targets = [
        path
        for path, module in model.named_modules()
        if isinstance(module, Dense) and path.startswith("layers.") and path.endswith(f".{name}")
    ]
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=1, lora_alpha=2, target_modules=targets), model)
    own = {path: parameter for path, parameter in model.named_parameters() if ".lora_" in path}
    with training_only(model, frozenset(own)):
        result = train(model, text, settings, seed=seed, device=CPU, objective=WithoutNoise())
    return sum(parameter.numel() for parameter in own.values()), result.val_loss


def run(kind: str, folder: Path, text: TokenData, settings: TrainSettings, seed: int) -> tuple[int, float]:
    """Train one adapter on a fresh copy of the model."""
    model = load(folder, CPU).model.model
    if kind == "offsets":
        return offsets(model, text, settings, seed)
    return lora(model, text, settings, seed, kind)


def main() -> None:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--lora", nargs="+", default=["o"], metavar="PROJECTION")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=98_304)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--offset-rates", nargs="+", type=float, default=[3e-2, 1e-1, 3e-1, 1.0])
    parser.add_argument("--lora-rates", nargs="+", type=float, default=[1e-2, 3e-2, 1e-1, 3e-1])
    options = parser.parse_args()
    text = TokenData.open(options.text)
    latents = sum(ranks_of(latent_projections(load(options.model, CPU).model)).values())
    start = evaluate(
        load(options.model, CPU).model.model, text, seq_len=options.seq_len, max_tokens=options.eval_tokens,
        batch_tokens=options.batch_tokens, device=CPU,
    )  # fmt: skip
    print(f"{latents:,} latents, loss without an adapter {start.val_loss:.4f}", flush=True)

    def settings(rate: float, seed: int) -> TrainSettings:
        return TrainSettings(
            tokens=options.tokens, seq_len=options.seq_len, batch_tokens=options.batch_tokens, lr=rate,
            weight_decay=0.0, eval_tokens=options.eval_tokens, order_seed=seed,
        )  # fmt: skip

    for kind in ("offsets", *options.lora):
        rates = options.offset_rates if kind == "offsets" else options.lora_rates
        first, *others = options.seeds
        tried = {}
        for rate in rates:
            parameters, tried[rate] = run(kind, options.model, text, settings(rate, first), first)
            print(
                f"{kind}: {parameters:,} parameters, rate {rate:g}, seed {first}: {tried[rate]:.4f}",
                flush=True,
            )
        best = min(tried, key=lambda rate: tried[rate])
        losses = [tried[best]]
        losses += [run(kind, options.model, text, settings(best, seed), seed)[1] for seed in others]
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"| {kind} | {parameters:,} | {best:g} | {shown} | {mean(losses):.4f} |", flush=True)


if __name__ == "__main__":
    main()
