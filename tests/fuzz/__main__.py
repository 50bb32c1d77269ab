"""The command line of the fuzz: see `tests.fuzz`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import KINDS, SCRATCH, Case, make_case
from tests.fuzz.inputs import build
from tests.fuzz.runner import Outcome, in_fork, preload, run_case

FAULTS = ("traceback", "late", "partial output", "crash")


def run_one(seed: int, number: int, home: Path, folder: Path) -> tuple[Case, Outcome]:
    """Make a case in `folder` and run it."""
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / SCRATCH
    work.mkdir(parents=True)
    (folder / "home").mkdir()
    case = make_case(seed, number, home, work)
    outcome = run_case(case.argv, folder, work)
    command = shlex.join(("nas", *case.argv)).encode(errors="surrogateescape")
    (folder / "command.txt").write_bytes(command + b"\n")
    return case, outcome


def main() -> int:
    """Return the exit code: 0 if no case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1500, help="cases, of all kinds in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=list(KINDS), help="this kind alone")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="one case, with its output")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for failing inputs")
    given = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="nas-fuzz-") as temporary:
        home = Path(temporary, "inputs")
        home.mkdir()
        if in_fork(lambda: build(home)) != 0:
            print("the valid inputs could not be made", file=sys.stderr)
            return 1
        if given.replay:
            seed, number = map(int, given.replay.split(":"))
            case, outcome = run_one(seed, number, home, Path(temporary, "case"))
            text = f"{case.kind}: {case.about}\n$ nas {shlex.join(case.argv)}"
            print(text.encode(errors="replace").decode())
            print(f"{outcome.output}\nexit {outcome.code} after {outcome.seconds:.1f} s: {outcome.faults}")
            return int(bool(outcome.faults))
        return _run_all(given, home, Path(temporary, "case"))


def _run_all(given: argparse.Namespace, home: Path, folder: Path) -> int:
    counts: Counter[tuple[str, str]] = Counter()
    slowest: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    started = time.monotonic()
    names = list(KINDS)
    for number in range(given.start, given.start + given.count):
        if given.kind and names[number % len(names)] != given.kind:
            continue
        case, outcome = run_one(given.seed, number, home, folder)
        counts[case.kind, "cases"] += 1
        if (done := number + 1 - given.start) % 100 == 0:
            print(f"{done} of {given.count} after {time.monotonic() - started:.0f} s", file=sys.stderr)
        counts[case.kind, f"exit {outcome.code}" if outcome.code in (0, 1, 2) else "other"] += 1
        slowest[case.kind] = max(slowest[case.kind], outcome.seconds)
        for fault in outcome.faults:
            counts[case.kind, fault] += 1
        if outcome.faults:
            kept = given.keep / f"{given.seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=_no_pipes)
            (kept / "output.txt").write_text(outcome.output, encoding="utf-8", errors="backslashreplace")
            last = (outcome.output.strip().splitlines() or [""])[-1][:160]
            line = f"{given.seed}:{number} {case.kind} ({case.about}) {', '.join(outcome.faults)}: {last}"
            print(line.encode(errors="backslashreplace").decode(), flush=True)
    _print_table(counts, slowest, time.monotonic() - started)
    return int(any(counts[kind, fault] for kind in KINDS for fault in FAULTS))


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_fifo()]


def _print_table(counts: Counter[tuple[str, str]], slowest: dict[str, float], seconds: float) -> None:
    columns = ("cases", "exit 0", "exit 1", "exit 2", "other", *FAULTS)
    print(f"{'kind':<14}" + "".join(f"{name:>15}" for name in columns) + f"{'slowest, s':>12}")
    for kind in KINDS:
        row = "".join(f"{counts[kind, name]:>15}" for name in columns)
        print(f"{kind:<14}{row}{slowest[kind]:>12.1f}")
    sums = "".join(f"{sum(counts[kind, name] for kind in KINDS):>15}" for name in columns)
    print(f"{'all':<14}{sums}{max(slowest.values()):>12.1f}   in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
