"""No test depends on speed: none reads a clock, and none gives a process only so much time. What hangs is
ended by the limit of a whole test, which is far longer than a busy machine takes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

# they only report how long they took; the fuzz ends what waits for ever, and judges by seconds of a CPU
TELLS_TIME = {"fuzz/runner.py", "fuzz/__main__.py", "kills.py"}
TESTS = Path(__file__).resolve().parent
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "process_time_ns"}
WAITING = {"run", "call", "check_call", "check_output", "communicate", "wait", "join", "urlopen", "result"}


def offences(tree: ast.AST) -> list[str]:
    """Calls of a clock, and of what waits, with a time limit."""
    result = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        limit = any(keyword.arg == "timeout" for keyword in call.keywords)
        number = bool(call.args) and isinstance(call.args[0], ast.Constant) and name in ("wait", "join")
        seconds = number and isinstance(call.args[0].value, int | float)  # type: ignore[attr-defined]
        if name in CLOCKS or (name in WAITING and (limit or seconds)):
            result.append(f"line {call.lineno}: {ast.unparse(call)[:80]}")
    return result


@pytest.mark.parametrize(
    "name", sorted({str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py")} - TELLS_TIME)
)
def test_of_speed_is_none(name: str) -> None:
    assert offences(ast.parse((TESTS / name).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("started = time.monotonic()", 1),
        ("assert perf_counter() - started < 3", 1),
        ("subprocess.run(command, timeout=60, check=True)", 1),
        ("process.wait(20); thread.join(1.5); event.wait(timeout=3)", 3),
        ("process.wait(); ', '.join(words); event.wait()", 0),
        ("Supervisor(study, timeout=4); monkeypatch.setattr(time, 'monotonic', lambda: 3)", 0),
    ],
)
def test_they_are_seen(code: str, count: int) -> None:
    assert len(offences(ast.parse(code))) == count
