"""Move an attribute of generated text by an adapter of latents, and measure what it costs.

    python examples/steer_latents.py paragraphs you.jsonl
    nas latents train MODEL -o ADAPTER --data you.jsonl --tokens 128k --seq-len 128 --batch-tokens 1024 \\
        --lr 0.1
    python examples/steer_latents.py measure MODEL ADAPTER --times 1 1.5 --texts 256

The attribute is how often a text says "you", in words per hundred. The first command writes the paragraphs of
the built-in corpus, without its held-out part, that say it twice or more. The last one samples texts with the
adapter and without it, and prints the shift of their mean in standard deviations of a text, with a 90 %
interval over texts, beside the change of the loss on held-out text. `random` has the adapter's offsets in
random order and with random signs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import mean, stdev, variance

import torch

from studies.data import open_corpus
from studies.data.request import default_val_fraction, is_held_out
from studies.evaluation.model_folder import Checkpoint, load
from studies.evaluation.perplexity import measure
from studies.evaluation.text import read_text, tokenize
from surgery.latents import Steering, load_adapter, steered
from surgery.latents.change import Change
from surgery.latents.projections import Latent

WORDS = frozenset({"you", "your", "yours"})
LENGTH = 256  # tokens of a sampled text
AT_ONCE = 64


def attribute(text: str) -> float:
    """Return how often a text says a word of WORDS, per hundred words."""
    words = re.findall(r"[a-z']+", text.lower())
    return 100 * sum(word in WORDS for word in words) / max(1, len(words))


def write_paragraphs(path: Path) -> None:
    """Write the paragraphs of the built-in corpus that say a word of WORDS twice or more."""
    corpus = open_corpus("builtin")
    fraction = default_val_fraction(corpus)
    paragraphs = [
        paragraph
        for text in corpus.texts()
        if not is_held_out(text, fraction)
        for paragraph in text.split("\n")
        if len(paragraph) > 80
        and sum(word in WORDS for word in re.findall(r"[a-z']+", paragraph.lower())) > 1
    ]
    path.write_text("".join(json.dumps({"text": paragraph}) + "\n" for paragraph in paragraphs))
    print(f"{len(paragraphs):,} paragraphs, {sum(map(len, paragraphs)):,} characters")


def sample(checkpoint: Checkpoint, texts: int, seed: int) -> list[float]:
    """Return the attribute of each of `texts` sampled texts, at temperature 1 from an empty prompt."""
    end = checkpoint.tokenizer.eos_token_id
    torch.manual_seed(seed)
    result: list[float] = []
    while len(result) < texts:
        start = torch.full((min(AT_ONCE, texts - len(result)), 1), end)
        drawn = checkpoint.model.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=LENGTH, min_new_tokens=LENGTH,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=end,
        )  # fmt: skip
        result += [attribute(checkpoint.tokenizer.decode(row[1:], skip_special_tokens=True)) for row in drawn]
    return result


def shuffled(offsets: Mapping[Latent, torch.Tensor], seed: int) -> dict[Latent, torch.Tensor]:
    """Return the offsets of every projection in random order and with random signs."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value[torch.randperm(len(value), generator=generator)]
        * (2 * torch.randint(2, value.shape, generator=generator) - 1)
        for key, value in offsets.items()
    }


def compare(folder: Path, adapter: Path, times: list[float], texts: int, tokens: int) -> None:
    """Print a row for the model, for every multiple of the adapter, and for random offsets of its size."""
    checkpoint = load(folder, torch.device("cpu"))
    held_out = tokenize(checkpoint, read_text("builtin"), tokens + LENGTH)
    offsets = load_adapter(adapter).offsets
    base: list[float] = []
    start = 0.0
    print("| offsets | per 100 words | shift in sd of a text | loss |\n|---|---|---|---|")
    tried: list[tuple[str, float, Mapping[Latent, torch.Tensor]]]
    tried = [("none", 0.0, {}), *((f"x {factor:g}", factor, offsets) for factor in times)]
    tried.append((f"random, x {times[-1]:g}", times[-1], shuffled(offsets, 0)))
    for seed, (name, factor, shifts) in enumerate(tried):
        steering = Steering({key: Change.shift(factor * value) for key, value in shifts.items()})
        with steered(checkpoint.model, steering) if shifts else nullcontext():
            drawn = sample(checkpoint, texts, seed)
            loss = measure(checkpoint.model, held_out, seq_len=LENGTH, max_tokens=tokens).loss
        if not base:
            base, start = drawn, loss
            print(f"| {name} | {mean(drawn):.2f} (sd {stdev(drawn):.2f}) | | {loss:.4f} |", flush=True)
            continue
        shift = (mean(drawn) - mean(base)) / stdev(base)
        half = 1.645 * ((variance(drawn) + variance(base)) / texts) ** 0.5 / stdev(base)
        print(f"| {name} | {mean(drawn):.2f} | {shift:+.2f} ± {half:.2f} | {loss - start:+.4f} |", flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("paragraphs").add_argument("path", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("model", type=Path)
    measuring.add_argument("adapter", type=Path)
    measuring.add_argument("--times", nargs="+", type=float, default=[1.0, 1.5])
    measuring.add_argument("--texts", type=int, default=256)
    measuring.add_argument("--tokens", type=int, default=32_768, help="of held-out text")
    options = parser.parse_args()
    if options.command == "paragraphs":
        write_paragraphs(options.path)
    else:
        compare(options.model, options.adapter, options.times, options.texts, options.tokens)


if __name__ == "__main__":
    main()
