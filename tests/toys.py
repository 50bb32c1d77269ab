"""A mixer and a projection operator of its own, each one spec, one module and one registry line.

python -m tests.toys FOLDER takes both from a space file to an exported model in FOLDER that loads and
generates. It has a process of its own, so that the registries are complete before anything reads them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.context import Context
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.mixers.base import Carry, MakeProjection, MixerSpec
from surgery.mixers.base import Options as MixerOptions
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.base import Options, ProjectionSpec


class MeanSpec(MixerSpec):
    """Mixes a token with the mean of all values so far."""

    letter = "X"
    word = "mean"
    name = "running mean"
    layer_type = "linear_attention"
    colour = "red"
    options = {"sharpness": Option(float, 1.0, low=0.5, high=2.0, help="factor of the mean")}
    transplanter = "tests.toys:transplant_mean"

    def carry(
        self, backbone: Backbone, options: MixerOptions, old: MixerSpec, old_options: MixerOptions
    ) -> dict[str, Carry]:
        return {"v": Carry(("v",)), "o": Carry(("o",))} if old.letter == "F" else {}

    def projections(self, backbone: Backbone, options: MixerOptions) -> dict[str, tuple[int, int]]:
        return {"v": (backbone.dim, backbone.dim), "o": (backbone.dim, backbone.dim)}

    def mixing_flops(self, backbone: Backbone, options: MixerOptions, context: int) -> int:
        return 2 * backbone.dim

    def cache_bytes(self, backbone: Backbone, options: MixerOptions, context: int) -> int:
        return 4 * (backbone.dim + 1)  # a sum and a count, in float32

    def build(self, backbone: Backbone, options: MixerOptions, projection: MakeProjection) -> nn.Module:
        return Mean(projection, options["sharpness"])


class Mean(nn.Module):
    def __init__(self, projection: MakeProjection, sharpness: float) -> None:
        super().__init__()
        self.v, self.o, self.sharpness = projection("v"), projection("o"), sharpness

    def forward(self, x: Tensor, context: Context) -> Tensor:
        values = self.v(x, context).float()
        ones = torch.ones_like(values[..., :1])
        total, count = values.cumsum(1), ones.cumsum(1)
        if context.state is not None:
            total, count = (new + old for new, old in zip((total, count), context.state, strict=True))
        context.keep((total[:, -1:], count[:, -1:]))
        y: Tensor = self.o((self.sharpness * total / count).to(x.dtype), context)
        return y


def transplant_mean(new: Any, old: Any, text: Any) -> None:
    from surgery.mixers.transplant import fit_output, repeat_heads

    new.v.load_state_dict(repeat_heads(old.v, old.head_dim, len(old.q.weight) // len(old.v.weight)))
    fit_output(new, old, text)


class BottleneckSpec(ProjectionSpec):
    """y = U V x, with a weight on an auxiliary loss that is idle at rank 1."""

    name = "bottleneck"
    options = {
        "rank": Option(int, low=1, help="inner width"),
        "penalty": Option(float, 0.1, low=0, help="weight of |V x|^2"),
    }
    conditional = ("penalty",)
    colour = "bright_cyan"
    fitter = "tests.toys:fit_bottleneck"

    def idle_options(self, options: Options) -> dict[str, str]:
        return {"penalty": "rank 1 has none"} if options["rank"] == 1 else {}

    def params(self, d_in: int, d_out: int, options: Options) -> int:
        return int(options["rank"]) * (d_in + d_out)

    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        return 2 * self.params(d_in, d_out, options)

    def short(self, options: Options) -> str:
        return f"r{options['rank']}"

    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        return Bottleneck(d_in, d_out, options["rank"])


class Bottleneck(nn.Module):
    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.V = nn.Parameter(torch.randn(rank, d_in) * d_in**-0.5)
        self.U = nn.Parameter(torch.randn(d_out, rank) * rank**-0.5)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return x @ self.V.T @ self.U.T

    @torch.no_grad()
    def start_at_zero(self) -> None:
        self.U.zero_()


def fit_bottleneck(
    weight: Tensor, moments: Tensor | None, options: Options, form: str, importance: Tensor | None
) -> Any:
    from surgery.apply.fit import Fitted

    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    rank = options["rank"]
    left, right = u[:, :rank] * s[:rank], v[:rank]
    return Fitted({"U": left, "V": right}, left @ right, 1)


SPACE = """
name: toys
backbone: {vocab_size: 300, dim: 32, num_layers: 4, num_heads: 4, num_kv_heads: 2, ffn_dim: 48}
search:
  mixers.ratio: {full: [1, 2], mean: [1, 2]}
  mixers.mean.sharpness: {choice: [0.5, 1.0]}
  bottleneck.projections: {choice: [[q, up], [down]]}
  bottleneck.rank: {choice: [1, 4]}
  bottleneck.penalty: {choice: [0.1, 0.2, 0.3]}
objectives: {val_loss: min, params: min}
baselines: [dense]
proxy: {tokens: 2k, seq_len: 32, batch_tokens: 256}
"""


def main(out: Path) -> dict[str, Any]:
    MIXERS["X"] = MeanSpec()  # the registry line of each
    MIXER_WORDS["X"] = "mean"
    PROJECTION_OPERATORS["bottleneck"] = BottleneckSpec()

    from transformers import AutoModelForCausalLM

    from nas_cli.render.strip import layer_strip
    from search_spaces import parse_space
    from search_spaces.trial import RandomTrial
    from studies.surrogates.descriptors import features
    from surgery.apply.execute import execute
    from surgery.apply.plan import plan
    from surgery.apply.source import read_source
    from surgery.architecture.costs import cost
    from surgery.hf.export import save
    from tests.surgery.apply.conftest import random_model

    space = parse_space(SPACE, "toys.yaml")
    drawn = [space.sample(RandomTrial(seed)) for seed in range(600)]
    chosen = next(item for item in drawn if "X" in item.layout and item.rules[0].options["rank"] == 4)
    random_model("llama", vocab_size=300).save_pretrained(out / "source")
    (out / "chosen.yaml").write_text(chosen.to_yaml(), encoding="utf-8")
    source = read_source(out / "source")
    planned = plan(source, out / "chosen.yaml")
    text = torch.randint(300, (4, 64), generator=torch.Generator().manual_seed(0))
    model, fits = execute(source, planned, calibration=list(text))
    save(model, out / "hybrid")
    loaded = AutoModelForCausalLM.from_pretrained(out / "hybrid").eval()
    prompt = torch.arange(1, 9)[None]
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached, uncached = (loaded.generate(prompt, use_cache=flag, **greedy) for flag in (True, False))
    same_logits = torch.equal(loaded(prompt).logits, model.head(model(prompt)))
    cache = loaded.to(torch.bfloat16)(prompt, use_cache=True).past_key_values
    return {
        "combinations": [space.size().count, len({item.hash for item in drawn})],
        "warnings": space.warnings(),
        "layout": chosen.layout,
        "fits": len(fits),
        "mixer_errors": [fit.output_error for fit in fits if fit.projection == "mixer"],
        "transplanted": list(planned.transplanted),
        "params": [cost(chosen, "params"), sum(p.numel() for p in loaded.parameters())],
        "cache_bytes": [cost(chosen, "cache_bytes@8"), cache.bytes],
        "features": len({len(features(item)) for item in drawn[:50]}),
        "layer_types": loaded.config.layer_types,
        "colours": str(layer_strip(chosen).spans),
        "same_logits": same_logits,
        "generated_alike": torch.equal(cached, uncached),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
