"""The model card: the complete architecture, its costs, and compatible and incompatible software."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.metrics import DEFAULT_CONTEXT, METRICS
from surgery.hf.configuration import MODEL_TYPE
from surgery.mixers.gdn.sizes import resolve

COSTS = ("params", "params_nonembedding")
COSTS_AT = ("decode_flops", "cache_bytes")  # of a context


def costs(architecture: Architecture, other: Architecture | None = None) -> dict[str, int]:
    """Return the analytic metrics of a card, by name.

    Those of a context are at 4,096 tokens, or at the model's own context if that is shorter.

    Args:
        architecture: of the model.
        other: model that it is compared with, whose context counts instead.
    """
    context = min(DEFAULT_CONTEXT, (other or architecture).backbone.max_position_embeddings)
    names = (*COSTS, *(f"{name}@{context}" for name in COSTS_AT))
    return {name: cost(architecture, name) for name in names}


def card(
    architecture: Architecture,
    *,
    title: str,
    text: str = "",
    base_model: str | None = None,
    before: Architecture | None = None,
    model_type: str = MODEL_TYPE,
) -> str:
    """Return the README.md of a model folder.

    Args:
        architecture: the model's architecture.
        title: heading of the card.
        text: Markdown sections to add after the description.
        base_model: Hub id of the checkpoint from which the model was made.
        before: that checkpoint's architecture, for a comparison of costs.
        model_type: of the class that it is written as.
    """
    ours = model_type == MODEL_TYPE
    parts = [
        _front_matter(base_model, model_type),
        f"# {title}",
        f"`{architecture}` (hash `{architecture.hash}`)",
        *([text.strip()] if text.strip() else []),
        *_warnings(architecture.warnings()),
        "## Costs",
        cost_table(architecture, before),
        "## Architecture",
        f"```yaml\n{architecture.to_yaml().strip()}\n```",
        "## Loading it",
        _LOADING if ours else _STOCK.format(model_type=model_type) + in_llama_cpp(architecture, model_type),
    ]
    return "\n\n".join(parts) + "\n"


_LOADING = """With the package that wrote it installed:

```python
import surgery
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```

Without it, the model's source in this folder is used: `from_pretrained(..., trust_remote_code=True)`.

vLLM, TGI, SGLang, llama.cpp and other engines with their own model code can't load it: they know neither its
operators nor its loops. Generation with transformers keeps its own cache, so that `cache_implementation`
and assisted generation are not available."""


_STOCK = """It is a `{model_type}` model of transformers, and needs no other code:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```

Engines that load `{model_type}` models load it too. """


def in_llama_cpp(architecture: Architecture, model_type: str) -> str:
    """Return whether llama.cpp (of October 2026) computes the same; its converter is silent about it."""
    backbone, depth = architecture.backbone, architecture.backbone.num_layers
    llama3 = (backbone.rope_scaling or {}).get("rope_type") == "llama3"
    wide = backbone.num_heads * backbone.head_dim != backbone.dim
    if (
        model_type in ("olmo_hybrid", "qwen3_next")
        or (model_type == "qwen3" and "o" in backbone.biases)
        or (model_type in ("qwen2", "olmo2") and wide)
        or (model_type == "olmo2" and backbone.tie_embeddings)
        or (model_type == "smollm3" and llama3)
        or (model_type == "qwen3_5_text" and _has_other_values(architecture))
    ):
        return "llama.cpp can't load it."
    if model_type == "smollm3" and backbone.layers_without_rope(depth) != tuple(range(3, depth, 4)):
        return "llama.cpp computes something else: it has no rotary embeddings in every fourth layer."
    if model_type in ("olmo2", "qwen3", "qwen3_5_text") and llama3:
        return "llama.cpp computes something else: it ignores llama3 scaling of the rotary embeddings."
    if "W" in architecture.layout:
        return "llama.cpp ignores its windows, and computes the same only up to their length."
    option = " --no-mtp" if model_type == "qwen3_5_text" else ""  # it would look for further layers
    return f"So does llama.cpp, once `convert_hf_to_gguf.py{option}` has converted it."


def _has_other_values(architecture: Architecture) -> bool:
    """Return whether heads of `G` layers have values of another width than keys."""
    sizes = [
        resolve(architecture.backbone, layer.mixer_options)
        for layer in architecture.layers
        if layer.mixer == "G"
    ]
    return any(each.key != each.value for each in sizes)


def cost_table(after: Architecture, before: Architecture | None = None) -> str:
    """Return a Markdown table of costs, compared with those of `before` if it is given."""
    new = costs(after)
    if before is None:
        rows = [[name, _format(name, value)] for name, value in new.items()]
        return table(["cost", "value"], rows)
    old = costs(before, after)
    rows = [
        [name, _format(name, old[name]), _format(name, value), f"{value / old[name] - 1:+.1%}"]
        for name, value in new.items()
    ]
    return table(["cost", "before", "after", "change"], rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table; every column but the first is right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format(name: str, value: int) -> str:
    metric = METRICS[name.partition("@")[0]]
    return f"{value:,}" if metric.unit == "parameters" else f"{metric.format(value)}"


def _warnings(warnings: list[str]) -> list[str]:
    return ["## Options without effect", "\n".join(f"- {text}" for text in warnings)] if warnings else []


def _front_matter(base_model: str | None, model_type: str) -> str:
    lines: Mapping[str, str | None] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base_model,
    }
    body = "\n".join(f"{key}: {value}" for key, value in lines.items() if value)
    tags = [model_type, *(["custom_code"] if model_type == MODEL_TYPE else [])]
    return "\n".join(["---", body, "tags:", *(f"- {tag}" for tag in tags), "---"])
