"""Runs a command's work to its end, killing its process at random points on the way.

python -m tests.kills WHAT TEMPLATE FOLDER SEED KILLS [WORDS...]

WHAT is `search`, `designs` (a search in a pretrained model, with a library of the copy's own), `refine` or
`audit` of the study at TEMPLATE, or `command`, for `nas WORDS...`. Each life is
a fork of this process, which never trains, so that a life costs no imports. Lives are killed before, in and
after writes (of the journal, checkpoints, weights, any file moved into place, any folder) and a random time
after one. When a life reaches the end, the work starts again on a new copy of TEMPLATE, until there were
KILLS; the last copy is finished. The copies are FOLDER/0/NAME, which is not killed, FOLDER/1/NAME and so on.
Prints JSON: kills by point, copies, writes without kills, seconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch._dynamo
import transformers  # noqa: F401

from nas_cli import main as nas
from studies.audit.plan import open_audit
from studies.audit.runs import train_runs
from studies.library import library
from studies.search import assignment as trials
from studies.search import requeue
from studies.search.refinement import take_repeat
from studies.storage import journal_lines
from studies.storage.journal import JournalFile
from studies.study import Study
from studies.workers.worker import Take, work
from surgery.hf import export

TRAINED, REPEATS, TIMES, AUDITED, DESIGNS = 10, 4, 2, 4, 12
SIGNS = ("before", "in", "after", "later")
MOST_LIVES = 400
Run = Callable[[Path], None]


def train(take_next: Take, target: int) -> Run:
    """Training trials of a study until it has so many."""

    def run(folder: Path) -> None:
        requeue.MOST_DEATHS = MOST_LIVES
        study = Study.open(str(folder))
        work(study, target=target, device="cpu", log=lambda line: None, take_next=take_next)
        study.write_front()

    return run


def designs(folder: Path) -> None:
    os.environ["NAS_HOME"] = str(folder / "home")
    train(trials.take, DESIGNS)(folder)


def fitted(folder: Path) -> dict[Path, int]:
    """When the replacements that the copy's library lists were written, in ns."""
    result = {}
    for index in folder.glob("home/library/*/index.json"):
        for name in json.loads(index.read_text())["entries"]:
            file = index.parent / "entries" / f"{name}.safetensors"
            if file.is_file():  # some have no tensors of their own
                result[file] = file.stat().st_mtime_ns
    return result


def audit(folder: Path) -> None:
    train_runs(open_audit(Study.open(str(folder)), TIMES, AUDITED), 1, "cpu")


def command(words: list[str]) -> Run:
    """`nas WORDS...` in the copy's folder."""

    def run(folder: Path) -> None:
        os.chdir(folder)
        nas.app(words, standalone_mode=False)

    return run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Writes:
    """Counts writes in this process, and kills it at one of them."""

    def __init__(self, point: int = 0, sign: str = "", delay: float = 0.0) -> None:
        self.point, self.sign, self.delay = point, sign, delay
        self.count = 0

    def watch(self) -> None:
        """From now on."""
        if self.sign == "later" and self.point == 0:
            threading.Timer(self.delay, die).start()
        for name in ("replace", "rename", "unlink", "mkdir", "fsync"):
            setattr(os, name, self.wrapped(getattr(os, name), None))
        save, append = torch.save, JournalFile._write
        torch.save = self.wrapped(save, lambda state, path: half(save, state, path))
        JournalFile._write = self.wrapped(append, half_a_batch)  # type: ignore[method-assign]
        for module in (safetensors.torch, export, library):
            if hasattr(module, "save_file"):
                real = module.save_file
                module.save_file = self.wrapped(real, lambda *a, real=real, **o: half(real, *a, **o))

    def wrapped(self, real: Callable[..., Any], partial: Callable[..., None] | None) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            self.count += 1
            here = self.count == self.point
            if here and self.sign == "in" and partial is not None:
                partial(*args, **options)
                die()
            if here and self.sign in ("before", "in"):
                die()
            result = real(*args, **options)
            if here and self.sign == "later":
                threading.Timer(self.delay, die).start()
            elif here:
                die()
            return result

        return write


def half(save: Callable[..., None], state: Any, path: Path, *args: Any, **options: Any) -> None:
    """A file of which half is there."""
    save(state, path, *args, **options)
    os.truncate(path, os.path.getsize(path) // 2)


def half_a_batch(journal: JournalFile, texts: list[bytes]) -> None:
    with journal.path.open("rb+", buffering=0) as file:
        text = journal_lines.chain(texts, journal_lines.trim(file))
        file.seek(0, os.SEEK_END)
        file.write(text[: len(text) * 2 // 3])


def live(run: Run, folder: Path, writes: Writes) -> int:
    """The exit code of one life, negative for a signal; sets `writes.count` if it lived to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # standard output is the harness's
        try:
            writes.watch()
            run(folder)
            os.write(writing, str(writes.count).encode())
            os._exit(0)
        finally:  # never back into the parent's loop
            import traceback

            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    writes.count = int(text or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(run: Run, template: Path, out: Path, seed: int, kills: int, *, keeps: bool) -> dict[str, Any]:
    """Kills the work `kills` times. `keeps`: what one life has done, the next does not do again."""
    rng, began = random.Random(seed), time.monotonic()

    def copy(number: int) -> Path:
        return Path(shutil.copytree(template, out / str(number) / template.name))

    whole = Writes()
    if (code := live(run, copy(0), whole)) != 0:
        sys.exit(f"without kills it ended with {code}")
    lasts = time.monotonic() - began
    most = max(3, whole.count // 6) if keeps else whole.count
    points, copies = Counter[str](), 1
    folder = copy(copies)
    for _ in range(MOST_LIVES):
        done = points.total() >= kills
        sign = rng.choice(SIGNS)
        point = rng.randint(0 if sign == "later" else 1, most)
        plan = (point, sign, rng.uniform(0, lasts if point == 0 and not keeps else lasts / whole.count))
        before = fitted(folder)
        code = live(run, folder, Writes() if done else Writes(*plan))
        if not before.items() <= fitted(folder).items():
            sys.exit("what a life has fitted, the next has fitted again")
        if code == -signal.SIGKILL:
            points[sign] += 1
            if not keeps and any(not name.startswith(".") for name in os.listdir(folder)):
                copies += 1  # it was killed when its work was in place
                folder = copy(copies)
        elif code != 0:
            sys.exit(f"a life ended with {code}")
        elif done:
            seconds = round(time.monotonic() - began, 1)
            return {"kills": dict(points), "copies": copies, "writes": whole.count, "seconds": seconds}
        else:
            copies += 1
            folder = copy(copies)
    sys.exit("the work does not get on")


if __name__ == "__main__":
    what, template, out, seed, kills, *words = sys.argv[1:]
    if what == "command":
        nas.register()
    runs: dict[str, Run] = {
        "search": train(trials.take, TRAINED),
        "refine": train(take_repeat, REPEATS),
        "audit": audit,
        "designs": designs,
        "command": command(words),
    }
    result = main(runs[what], Path(template), Path(out), int(seed), int(kills), keeps=what != "command")
    print(json.dumps(result))
