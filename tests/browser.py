"""Pages in headless Chromium: their text after the scripts have run, and the console's messages."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--window-size=1400,3000", "--virtual-time-budget=10000", "--enable-logging=stderr",
)  # fmt: skip


class Page(NamedTuple):
    """A page as a person sees it, with its tags, and the lines of its console."""

    html: str
    console: list[str]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", self.html, flags=re.S))


def screenshot(url: str, path: Path, profile: Path, size: str) -> None:
    """Take a picture of a page; `size` is that of the window, such as 1400,900."""
    assert CHROMIUM is not None
    flags = [flag for flag in _FLAGS if not flag.startswith("--window-size")]
    command = [
        CHROMIUM,
        *flags,
        f"--window-size={size}",
        f"--user-data-dir={profile}",
        f"--screenshot={path}",
        url,
    ]
    subprocess.run(command, capture_output=True, check=True)


def browse(url: str, profile: Path, *flags: str) -> Page:
    """Open a page; `profile` is a new folder for the browser's own files."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Page(done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line])
