"""A case: what is broken, and the command that meets it. Decided by seed and number alone."""

from __future__ import annotations

import gzip
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import mutations as m

SCRATCH = Path("work")  # of a case, below its folder: the working directory of the command


@dataclass(frozen=True)
class Case:
    """A command in a folder; the folder holds what it is given."""

    kind: str
    about: str
    argv: tuple[str, ...]


def make_case(seed: int, number: int, home: Path, folder: Path) -> Case:
    """Fill `folder` for a case and return its command. `home` holds the valid inputs."""
    rng = random.Random(f"{seed}:{number}")
    kind = list(KINDS)[number % len(KINDS)]
    about, argv = KINDS[kind](rng, home, folder)
    return Case(kind, about, tuple(arg for arg in argv if arg is not None))


def _copy(home: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (home / name).is_dir():
            shutil.copytree(home / name, folder / name, symlinks=True)
        else:
            shutil.copy(home / name, folder / name)


def _rewrite(path: Path, change: Callable[[bytes, random.Random], bytes], rng: random.Random) -> str:
    path.write_bytes(change(path.read_bytes(), rng))
    return f"{path.name} by {change.__name__}"


def _space(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    _copy(home, folder, "space.yaml")
    about = _rewrite(folder / "space.yaml", m.mutate_yaml, rng)
    command = rng.choice((
        ["space", "validate", "space.yaml"], ["space", "validate", "space.yaml", "--json"],
        ["space", "show", "space.yaml"], ["space", "show", "space.yaml", "--json"], ["space", "list"],
        ["space", "sample", "space.yaml", "-n", "2"], ["space", "sample", "space.yaml", "-o", "out.yaml"],
    ))  # fmt: skip
    return about, command


def _architecture(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    name = rng.choice(("arch.yaml", "design.yaml"))
    _copy(home, folder, name)
    about = _rewrite(folder / name, m.mutate_yaml, rng)
    llama = str(home / "llama")
    budget = ["--tokens", "256", "--seq-len", "32", "--batch-tokens", "128", "--eval-tokens", "64"]
    command = rng.choice((
        ["train", name, "-o", "out", "--data", str(home / "prepared"), *budget],
        ["apply", name, llama, "--dry-run"], ["apply", name, llama, "--dry-run", "--json"],
        ["eval", name, "--probe", "recall", "--steps", "1", "--batch-sequences", "2"],
        ["eval", name, "--probe", "state", "--steps", "1", "--batch-sequences", "2"], ["show", name],
        ["show", name, "--json"],
    ))  # fmt: skip
    return about, command


def _on_model(rng: random.Random, home: Path, model: str) -> list[str]:
    arch = str(home / ("design.yaml" if model == "llama" else "arch.yaml"))
    text = str(home / "corpus" / "b.txt")
    if rng.random() < 0.03:  # a fresh process verifies the result, which takes seconds
        return ["apply", arch, model, "-o", "out", "--calibrate", "none"]
    return rng.choice((
        ["apply", arch, model, "--dry-run"], ["apply", arch, model, "--dry-run", "--json"],
        ["eval", model, "--data", text, "--tokens", "64", "--seq-len", "32"],
        ["generate", model, "Once upon", "--tokens", "3"],
        ["eval", model, "--probe", "recall", "--steps", "1", "--batch-sequences", "2"],
    ))  # fmt: skip


def _config(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    model = rng.choice(("llama", "ours"))
    _copy(home, folder, model)
    names = ("config.json", "config.json", "config.json", "generation_config.json")
    about = _rewrite(folder / model / rng.choice(names), m.mutate_json, rng)
    return f"{model}: {about}", _on_model(rng, home, model)


def _safetensors(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    model = rng.choice(("llama", "ours"))
    _copy(home, folder, model)
    file = folder / model / "model.safetensors"
    action = rng.random()
    if action < 0.7:
        about = _rewrite(file, m.mutate_safetensors, rng)
    elif action < 0.95:
        index = b'{"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "model.safetensors"}}'
        path = folder / model / "model.safetensors.index.json"
        path.write_bytes(m.mutate_json(index, rng))
        if rng.random() < 0.5:
            file.rename(folder / model / "model-00001-of-00001.safetensors")
        about = "an index"
    else:
        file.unlink()
        rng.choice((lambda: None, file.mkdir, lambda: file.symlink_to("nothing")))()
        about = "no file"
    return f"{model}: {about}", _on_model(rng, home, model)


def _tokenizer(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    model = rng.choice(("llama", "ours"))
    _copy(home, folder, model)
    names = sorted(p.name for p in (folder / model).iterdir() if "token" in p.name and p.suffix == ".json")
    path = folder / model / rng.choice(names)
    if rng.random() < 0.1:
        path.unlink()
        about = f"{path.name} is gone"
    else:
        about = _rewrite(path, m.mutate_json, rng)
    if rng.random() < 0.4:
        corpus = str(home / "corpus")
        return f"{model}: {about}", ["data", "prepare", corpus, "--tokenizer", model, "-o", "out"]
    return f"{model}: {about}", _on_model(rng, home, model)


def _corpus(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    if rng.random() < 0.25:
        return _prepared(rng, home, folder)
    _copy(home, folder, "corpus")
    corpus = folder / "corpus"
    name = rng.choice(("a.jsonl", "a.jsonl", "b.txt", "c.parquet"))
    about = _rewrite(corpus / name, m.mutate_jsonl if name == "a.jsonl" else m.mutate_bytes, rng)
    if rng.random() < 0.2:
        packed = gzip.compress((corpus / name).read_bytes(), mtime=0)
        if rng.random() < 0.5:
            packed = m.mutate_bytes(packed, rng)
        (corpus / name).rename(corpus / f"{name}.gz")
        (corpus / f"{name}.gz").write_bytes(packed)
        name += ".gz"
    if rng.random() < 0.3:
        names = ("ünï 🙂.jsonl", "[a]*?.txt", " .jsonl", "x" * 240 + ".txt", "a\nb.txt", "bad\udcff.txt")
        (corpus / rng.choice(names)).write_bytes((corpus / name).read_bytes())
        rng.choice((
            lambda: (corpus / "loop").symlink_to("."), lambda: (corpus / "gone.txt").symlink_to("nothing"),
            lambda: os.mkfifo(corpus / "pipe.jsonl"), lambda: (corpus / "folder.txt").mkdir(),
        ))()  # fmt: skip
    file = f"corpus/{name}"
    spec = rng.choice(("corpus", "./corpus/", file, f"{file}?column=id", "corpus/../corpus"))
    command = rng.choice((
        ["data", "prepare", spec, "-o", "out", "--tokenizer", "bpe:280"], ["data", "info", spec],
        ["data", "prepare", spec, "-o", "out", "--tokenizer", str(home / "llama"), "--val-fraction", "0.5"],
        ["eval", str(home / "ours"), "--data", spec, "--tokens", "64", "--seq-len", "32"],
    ))  # fmt: skip
    return about, command


def _prepared(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    _copy(home, folder, "prepared", "arch.yaml")
    files = sorted(path for path in (folder / "prepared").rglob("*") if path.is_file())
    path = rng.choice([*files, *[folder / "prepared" / "meta.json"] * 4])
    about = _rewrite(path, m.mutate_json if path.suffix == ".json" else m.mutate_bytes, rng)
    budget = ["--tokens", "256", "--seq-len", "32", "--batch-tokens", "128", "--eval-tokens", "64"]
    command = rng.choice((
        ["data", "info", "prepared"], ["data", "info", "prepared", "--verify", "--json"],
        ["train", "arch.yaml", "-o", "out", "--data", "prepared", *budget],
        ["eval", str(home / "ours"), "--data", "prepared", "--tokens", "64", "--seq-len", "32"],
    ))  # fmt: skip
    return f"prepared: {about}", command


def _journal(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    _copy(home, folder, "runs")
    study = folder / "runs" / "micro"
    files = sorted(path for path in study.rglob("*") if path.is_file() and path.stat().st_size < 10**6)
    journal = [path for path in files if path.name == "journal.log"]
    path = rng.choice(journal if journal and rng.random() < 0.75 else files)
    change = {
        ".json": m.mutate_json, ".yaml": m.mutate_yaml, ".log": m.mutate_jsonl, ".jsonl": m.mutate_jsonl,
    }.get(path.suffix if path.stat().st_size else "", m.mutate_bytes)  # fmt: skip
    about = _rewrite(path, change, rng)
    command = rng.choice((
        ["front", "micro"], ["front", "micro", "--json"], ["front", "micro", "--all", "--csv", "-"],
        ["front", "micro", "--baselines"], ["show", "micro"], ["show", "micro", "1"],
        ["show", "micro", "0", "--json"], ["show", "micro", "--importances"], ["pick", "micro"],
        ["pick", "micro", "-o", "out.yaml"], ["pick", "micro", "--trial", "1", "--json"],
        ["worker", "micro", "--trials", "1"], ["front", "micro", "--plot", "out.html"],
    ))  # fmt: skip
    return about, command


# A command line that works or is refused at once, and the options (ARG: its first argument) that are broken
# in it. Values are such that no accepted one makes a command run for long.
_BUDGET = "--tokens 256 --seq-len 32 --batch-tokens 128 --eval-tokens 64"
_PROBE = "--steps 1 --batch-sequences 2"
_OPTIONS = {
    "space sample {home}/space.yaml": "-n --seed -o ARG",
    "space show {home}/space.yaml": "ARG --yaml",
    "space validate {home}/space.yaml": "ARG",
    "data prepare {home}/corpus -o out --tokenizer bpe:280": (
        "--tokenizer -o --tokens --column --val-fraction ARG"
    ),
    "data info {home}/corpus": "ARG --column",
    f"train {{home}}/arch.yaml -o out --data {{home}}/prepared {_BUDGET}": (
        "-o --data --tokenizer --tokens --seq-len --batch-tokens --eval-tokens --lr --lr-rule --optimizer "
        "--warmup --seed --weight-decay --device --compile --cpu-precision --threads ARG"
    ),
    "apply {home}/design.yaml {home}/llama --dry-run": (
        "-o --fold --calibrate --align --heal --heal-loss --heal-optimizer --data --lr --lr-new --freeze "
        "--hidden-weight --lora --eval-every --seq-len --batch-tokens --seed --device ARG"
    ),
    "eval {home}/ours --data {home}/corpus/b.txt --tokens 64 --seq-len 32": (
        "--data --tokens --seq-len --probe --device --seed ARG"
    ),
    f"eval {{home}}/arch.yaml --probe recall {_PROBE}": (
        "--pairs --distance --alphabet --group --batch-sequences --lr --seed --seq-len ARG"
    ),
    f"eval {{home}}/arch.yaml --probe state {_PROBE}": "--group --seq-len --batch-sequences --lr --seeds",
    "generate {home}/ours Once --tokens 2": ("--tokens --temperature --top-k --seed --device ARG"),
    "front {home}/runs/micro": "--csv --plot --dir --storage ARG",
    "show {home}/runs/micro": "--plot --dir --storage ARG",
    "pick {home}/runs/micro": "--limit --best --trial -o --dir --storage ARG",
    "worker {home}/runs/micro --trials 1": "--trials --each --device --dir --storage ARG",
    "search {home}/space.yaml --data {home}/prepared --sampler nothing": (
        "--name --trials --timeout --workers --data --tokenizer --stopping --seed --device --compile "
        "--cpu-precision --threads --dir --storage ARG"
    ),
    "search {home}/space.yaml --stopping nothing": "--timeout --name --storage --sampler ARG",
    "refine nothing": "--runs --each --timeout --workers --device --dir --storage ARG",
    "audit nothing": "--times --architectures --seeds --workers --timeout --device --plot --storage ARG",
    "dashboard nothing": "--host --port --dir --storage ARG",
    "bench ops --shapes nothing": "--tokens --rank --blocks --kl --rounds --device",
    "bench mixers --mixers nothing": "--dim --heads --layers --rounds --lengths",
    "bench model nothing": "--space --seq-len --batch-tokens --rounds --threads --steps",
    "bench trial nothing": "--baseline --threads --rounds --device",
    "bench overhead nothing": "--samplers --stopping --at --workers-simulated",
    "bench search --methods nothing": "--table --seeds --rungs --until --trials --rival --plot --workers",
}
_ARGUMENTS = (
    *(word for word in m.WORDS if word.isprintable() and len(word) < 1000), "bad\udcff", "-5", "1e18",
    "1000000", "2", "0.5", "params<=1", "bpe:99999999", "out.png", "out.txt", "/proc/self/mem",
    "/nothing/x.png", "sqlite:///x/y.db", "cuda:99", "meta", "a=b", "1,2", "8:2x8", "a\nb", "\x1b[31m",
)  # fmt: skip


def _options(rng: random.Random, home: Path, folder: Path) -> tuple[str, list[str]]:
    command = rng.choice(list(_OPTIONS))
    options = _OPTIONS[command].split()
    argv = [part.format(home=home) for part in command.split()]
    names = rng.sample(options, k=min(len(options), rng.choice((1, 1, 2))))
    for name in names:
        word = rng.choice(_ARGUMENTS)
        if name == "ARG":
            argv[2 if argv[0] in ("space", "data", "bench") else 1] = word
        else:
            argv += [name, word]
    return " ".join(names), argv


KINDS: dict[str, Callable[[random.Random, Path, Path], tuple[str, list[str]]]] = {
    "space": _space,
    "architecture": _architecture,
    "config.json": _config,
    "safetensors": _safetensors,
    "tokenizer": _tokenizer,
    "corpus": _corpus,
    "journal": _journal,
    "options": _options,
}
