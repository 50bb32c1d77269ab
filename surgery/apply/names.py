"""Names of a checkpoint's tensors: matching as in transformers, and explanations of mismatches."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from surgery.config.problems import Problems
from surgery.config.selector import write_layers

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BASE = "model"  # the attribute that holds the decoder in transformers' classes
_LAYER = re.compile(r"(.*?\blayers\.)(\d{1,9})(\..*)")

# Part of a name that a wrapper around the model adds -> (the wrapper, how to save without it).
WRAPPERS = {
    "base_model.model": ("a PEFT adapter", "save it with `model.merge_and_unload().save_pretrained(FOLDER)`"),
    "base_layer": ("a PEFT adapter", "save it with `model.merge_and_unload().save_pretrained(FOLDER)`"),
    "_orig_mod": ("torch.compile", "save it with `model._orig_mod.save_pretrained(FOLDER)`"),
    "_fsdp_wrapped_module": ("FSDP", "gather the full state dict before saving"),
    "_checkpoint_wrapped_module": ("activation checkpointing", "save the model inside the wrapper"),
    "_forward_module": ("Lightning", "save the model inside the wrapper"),
    "module": ("DataParallel, DDP or DeepSpeed", "save it with `model.module.save_pretrained(FOLDER)`"),
    "language_model": ("a multimodal model", "save its language model alone"),
    "text_model": ("a multimodal model", "save its language model alone"),
    "pretrained_model": ("a model with a value head (TRL)", "save the model inside it alone"),
}
# Names of other kinds of checkpoints -> the problem, and the fix. The first match counts.
_FOREIGN = (
    (
        re.compile(r"\blora_|\bmodules_to_save\b|\boriginal_module\b"),
        "belongs to an adapter (PEFT), whose effect would be lost",
        "save the model with `model.merge_and_unload().save_pretrained(FOLDER)`",
    ),
    (
        re.compile(
            r"\.(qweight|qzeros|scales|g_idx|SCB|weight_packed|weight_shape|(weight|input)_scale(_inv)?"
            r"|weight\.(absmax|quant_map|quant_state\b.*|nested_.*))$"
        ),
        "belongs to a quantised checkpoint",
        "start from the full-precision one",
    ),
    (
        re.compile(r"\b(qkv_proj|gate_up_proj|query_key_value|W_pack|Wqkv)\b"),
        "holds several projections in one",
        "split it into q_proj, k_proj, v_proj, gate_proj and up_proj, as transformers names them",
    ),
    (
        re.compile(r"\battention\.w[qkvo]\b|\bfeed_forward\.w[123]\b|^(tok_embeddings|output)\."),
        "is a name of the original release, not of transformers",
        "convert the checkpoint with the script that transformers has for this family",
    ),
    (
        re.compile(r"^(score|classifier|v_head|qa_outputs|value_head)\b"),
        "is the head of a model that does not predict tokens",
        "start from the causal language model",
    ),
)


def match_names(stored: Iterable[str], known: Collection[str], problems: Problems) -> dict[str, str]:
    """Return the checkpoint's names by the model's names, matched as by transformers' loader.

    A base model's tensors may lack the leading `model.`, and `lm_head` may have it. Names that match nothing
    are unchanged. Two tensors with the same name in the model are a problem.
    """
    names: dict[str, str] = {}
    for name in stored:
        ours = _match(name, known)
        if ours in names:
            problems.add(ours, None, f"is there twice: as {names[ours]} and as {name}", "remove one of them")
        else:
            names[ours] = name
    return names


def _match(name: str, known: Collection[str]) -> str:
    if name.startswith(_BASE) and (shorter := re.sub(f"^{_BASE}.", "", name, count=1)) in known:
        return shorter
    return longer if (longer := f"{_BASE}.{name}") in known else name


def explain_names(
    missing: Iterable[str], unexpected: Iterable[str], tied: bool, problems: Problems, known: Collection[str]
) -> None:
    """Add a problem for each group of mismatched names, with the reason if it can be recognised.

    Args:
        missing: names of the model that the checkpoint lacks.
        unexpected: names of the checkpoint that the model lacks.
        tied: whether the head shares the embedding's weights.
        known: every name that the model has.
    """
    absent, extra = dict.fromkeys(missing), dict.fromkeys(unexpected)
    for wrappers, wrapped in _find_wrapped(extra, known).items():
        marks = " and ".join(f"`{wrapper}.`" for wrapper in wrappers)
        origin = " inside ".join(WRAPPERS[part][0] for part in wrappers if part in WRAPPERS)
        fixes = [WRAPPERS[part][1] for part in wrappers if part in WRAPPERS]
        rule = f"{_count(len(wrapped))} with {marks} in the name, such as {next(iter(wrapped))}"
        rule += f": saved from inside {origin}" if origin else ""
        hint = ", or ".join([*dict.fromkeys(fixes), f"remove {marks} from the names"])
        problems.add("".join(f"{wrapper}." for wrapper in wrappers), None, rule, hint)
        for name, inner in wrapped.items():
            del extra[name]
            absent.pop(inner, None)
    for pattern, rule, hint in _FOREIGN:
        names = [name for name in extra if pattern.search(name)]
        for line in by_layers(names):
            problems.add(line, None, rule, hint)
        for name in names:
            del extra[name]
    _explain_embeddings(absent, extra, tied, problems)
    for line in by_layers(absent):
        problems.add(line, None, "is missing", "transformers would initialise it at random")
    for line in by_layers(extra):
        problems.add(line, None, "is unexpected: this family has no such tensor")


def _explain_embeddings(
    absent: dict[str, None], extra: Mapping[str, None], tied: bool, problems: Problems
) -> None:
    """Add problems for a missing embedding or head, depending on tie_word_embeddings."""
    if HEAD in absent and EMBEDDING not in absent and not tied:
        problems.add(
            HEAD, None,
            "is missing, and tie_word_embeddings is false: transformers would initialise it at random",
            "set tie_word_embeddings: true in config.json if the head is the embedding; otherwise save the "
            "causal language model, not its base model",
        )  # fmt: skip
        del absent[HEAD]
    elif EMBEDDING in absent and HEAD not in absent and not tied:
        problems.add(
            EMBEDDING, None,
            "is missing, and tie_word_embeddings is false: transformers would initialise it at random",
            "set tie_word_embeddings: true in config.json if the embedding is the head",
        )  # fmt: skip
        del absent[EMBEDDING]


def _find_wrapped(names: Iterable[str], known: Collection[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return, by tuples of wrappers, the names with them and the model's names without them."""
    wrapped: dict[tuple[str, ...], dict[str, str]] = {}
    rest = []
    for name in names:
        inner, wrappers = name, []
        for wrapper in WRAPPERS:
            shorter = re.sub(rf"(^|\.){wrapper}\.", r"\1", inner)
            if shorter != inner:
                wrappers.append(wrapper)
            inner = shorter
        inner = _match(inner, known)
        if wrappers and inner in known:
            wrapped.setdefault(tuple(wrappers), {})[name] = inner
        else:
            rest.append(name)
    for prefix, prefixed in _find_prefix(rest, known).items():
        wrapped.setdefault((prefix,), {}).update(prefixed)
    return wrapped


def _find_prefix(names: list[str], known: Collection[str]) -> dict[str, dict[str, str]]:
    """Return, by prefix, the names with a prefix that WRAPPERS does not list and the model's names."""
    prefixed: dict[str, dict[str, str]] = {}
    for name in names:
        parts = name.split(".")
        for start in range(1, len(parts)):
            inner = ".".join(parts[start:])
            if inner in known and inner.startswith((f"{_BASE}.", "lm_head.")):
                prefixed.setdefault(".".join(parts[:start]), {})[name] = inner
                break
    return prefixed


def _count(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


def by_layers(names: Iterable[str]) -> list[str]:
    """Merge names that differ only in the layer, such as `model.layers.[0-3,7].mlp...`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = _LAYER.match(name)
        key = (match[1], match[3]) if match else (name, "")
        groups.setdefault(key, []).append(int(match[2]) if match else -1)
    lines = []
    for (head, tail), layers in groups.items():
        if layers == [-1]:
            lines.append(head)
        else:
            selector = write_layers(tuple(sorted(layers)), None)
            lines.append(f"{head}{selector if len(layers) == 1 else f'[{selector}]'}{tail}")
    return lines
