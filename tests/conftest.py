"""Fixtures for every test: few threads, a fixed seed, the shared text where it exists."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, settings

from tests import shapes

ROOT = Path(__file__).resolve().parent.parent

# One thread a worker: the suites run several processes on few cores, and tensors are tiny.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("COLUMNS", "120")  # of tables, in every worker of pytest-xdist too

shapes.check()  # before any of their modules is imported

# A shell that runs the suite in the background has Ctrl-C ignored, and processes inherit that: the tests of
# Ctrl-C need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repo",
    deadline=None,  # the first example of a test pays for imports
    derandomize=True,  # the same examples on every machine
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repo")


def pytest_collection_finish() -> None:
    """Keep what imports have made out of garbage collections, which accelerate runs by itself."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _steady_torch() -> Iterator[None]:
    """A fixed seed, and defaults restored, for tests that use torch; costs nothing to those that don't."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def cli() -> typer.Typer:
    """`nas` with all its commands, which a process may hang on once."""
    from nas_cli import main

    main.register()
    return main.app


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and a real tokenizer beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real text in ../shared/data beside the checkout, which is not there")
    return folder
