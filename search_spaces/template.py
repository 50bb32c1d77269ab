"""A commented space to begin with, by answers to a few questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.reading import MAX_RATIOS
from surgery.mixers import MIXERS

SIZES = ("laptop", "gpu")
WORDS = tuple(mixer.word for mixer in MIXERS.values() if mixer.mixes and mixer.word not in ("", "full"))

_ABOUT = {
    "laptop": "half a million parameters on text that ships with nas: minutes on two CPU cores",
    "gpu": "about 30 M parameters on FineWeb-Edu: some hours on one GPU",
}
_BACKBONE = {
    "laptop": """\
  vocab_size: 1024          # tokens; the tokenizer below has as many
  dim: 96                   # width of the residual stream
  num_layers: 4
  num_heads: 3              # query heads of dim / num_heads = 32 channels
  num_kv_heads: 3           # fewer than num_heads: grouped key/value heads, a smaller cache
  ffn_dim: 256              # hidden width of the SwiGLU
  tie_embeddings: true      # the head is the embedding""",
    "gpu": """\
  vocab_size: 8192          # tokens; the tokenizer below has as many
  dim: 512                  # width of the residual stream
  num_layers: 8
  num_heads: 8              # query heads of dim / num_heads = 64 channels
  num_kv_heads: 8           # fewer than num_heads: grouped key/value heads, a smaller cache
  ffn_dim: 1408             # hidden width of the SwiGLU
  tie_embeddings: true      # the head is the embedding""",
}
# by mixer: field, values for each size, comment
_OPTIONS = {
    "gdn": ("key_ratio", ("[0.5, 0.75]", "[0.5, 0.75]"), "width of all keys / dim"),
    "kda": ("expand_v", ("[1, 1.5]", "[1, 1.5]"), "width of a head's value / width of its key"),
    "window": ("window", ("[16, 64]", "[64, 128, 256]"), "tokens that a layer sees"),
    "sparse": ("top_k", ("[16, 32]", "[32, 64, 128]"), "tokens that a query attends to"),
    "nsa": ("blocks", ("[3, 4]", "[4, 8, 16]"), "blocks of 16 tokens that a query attends to"),
}
_HDPL = {
    "laptop": ("[2, 4, 8]", "[8, 16, 32]", '[all, "0-1", "2-3", "1::2"]'),
    "gpu": ("[2, 4, 8, 16]", "[32, 64, 128]", '[all, "0-3", "4-7", "1::2"]'),
}
_PROXY = {
    "laptop": """\
  tokens: 100k              # of one run
  seq_len: 128
  batch_tokens: 512         # of one optimizer step
  rungs: [0.3, 1.0]         # fractions of the run at which it may be paused
  lr: 3e-3                  # peak learning rate of matrices
  warmup: 0.1               # fraction of the steps
  weight_decay: 0.1
  eval_tokens: 16384        # held-out tokens that the loss is measured on""",
    "gpu": """\
  tokens: 20M               # of one run
  seq_len: 512
  batch_tokens: 32768       # of one optimizer step
  rungs: [0.2, 0.5, 1.0]    # fractions of the run at which it may be paused
  lr: 1e-3                  # peak learning rate of matrices
  warmup: 0.1               # fraction of the steps
  weight_decay: 0.1
  eval_tokens: 262144       # held-out tokens that the loss is measured on""",
}
_DATA = {
    "laptop": '{corpus: builtin, tokenizer: "bpe:1024"}  # text, and a byte-level BPE trained on it',
    "gpu": '{corpus: fineweb-edu, tokenizer: "bpe:8192"}  # text, and a byte-level BPE trained on it',
}


@dataclass(frozen=True)
class Answers:
    """Answers that decide what a space has.

    Attributes:
        name: of the space.
        size: `laptop` or `gpu`.
        mixers: words of the mixers that layers may have beside full attention.
        hdpl: whether projections may become HDPL operators.
        loops: whether the stack may run several times.
        context: tokens at which one decoded token is counted.
        limits: constraints such as `params <= 40M`.
    """

    name: str = "mine"
    size: str = "laptop"
    mixers: Sequence[str] = ("gdn", "window")
    hdpl: bool = True
    loops: bool = False
    context: int = 1024
    limits: Sequence[str] = ()


def space_text(answers: Answers) -> str:
    """Return the YAML of a space from scratch. Limits are copied as they are."""
    assert answers.size in SIZES
    assert set(answers.mixers) <= set(WORDS)
    limits = ", ".join(f'"{limit}"' for limit in answers.limits)
    baselines = ["dense"]
    baselines += ["hdpl-paper"] if answers.hdpl else []
    baselines += ["lt2-looped"] if answers.loops else []
    parts = [
        f"# A space of {_ABOUT[answers.size]}.\n"
        "# Check it after a change: nas space validate FILE. Its size and costs: nas space show FILE.\n"
        f"name: {answers.name}",
        f"# The dense model that every architecture is a variant of.\nbackbone:\n{_BACKBONE[answers.size]}",
        "# Searched fields. A plain value fixes a field; {choice: ...}, {range: ...}, {log: ...} and\n"
        "# {subset: ...} search it.\nsearch:\n" + "\n".join(_search(answers)),
        f'# Exact costs that an architecture must keep to, such as "params <= 40M".\nconstraints: [{limits}]',
        "# Metrics and the better direction, at most four. @ is the context in tokens at which a token is "
        f"decoded.\nobjectives: {{val_loss: min, params: min, decode_flops@{answers.context}: min}}",
        "# Known designs on this backbone, trained first for comparison.\n"
        f"baselines: [{', '.join(baselines)}]",
        f"# The training run that every architecture gets. Counts in tokens.\nproxy:\n{_PROXY[answers.size]}",
        f"data: {_DATA[answers.size]}",
    ]
    return "\n\n".join(parts) + "\n"


def _most_share(mixers: int) -> int:
    """Return the largest share of a mixer, up to 3, at which a space has no more ratios than are allowed."""
    return next(most for most in (3, 2, 1) if 3 * (most + 1) ** mixers <= MAX_RATIOS)


def _search(answers: Answers) -> list[str]:
    """Return the lines of the searched fields."""
    at = SIZES.index(answers.size)
    lines = []
    if answers.mixers:
        most = _most_share(len(answers.mixers))
        shares = ", ".join(f"{word}: [0, {most}]" for word in answers.mixers)
        lines.append(f"  mixers.ratio: {{full: [1, 3], {shares}}}  # shares of the layers by token mixer")
        lines.append("  mixers.placement: {choice: [interleave, bookend]}  # of full attention")
    for word in answers.mixers:
        if word in _OPTIONS:
            name, values, comment = _OPTIONS[word]
            lines.append(f"  mixers.{word}.{name}: {{choice: {values[at]}}}  # {comment}")
    if answers.hdpl:
        blocks, ranks, layers = _HDPL[answers.size]
        lines += [
            "  hdpl.projections: {subset: [q, k, v, o, gate, up, down]}  # which become HDPL operators",
            f"  hdpl.blocks: {{choice: {blocks}}}  # diagonal blocks",
            f"  hdpl.rank: {{choice: {ranks}}}  # latent dimensions of the low-rank path",
            "  hdpl.kl: {choice: [mean, free_bits]}  # form of its auxiliary loss",
            "  hdpl.kl_weight: {log: [1e-5, 1e-1]}  # weight of that loss",
            f"  hdpl.layers: {{choice: {layers}}}  # numbers from 0, ranges, slices",
        ]
    if answers.loops:
        lines.append("  loop.count: {range: [1, 3]}  # passes through the stack; each has its own cache")
    widths = "[192, 256, 320]" if answers.size == "laptop" else "[1024, 1408, 1792]"
    lines.append(f"  backbone.ffn_dim: {{choice: {widths}}}")
    return lines
