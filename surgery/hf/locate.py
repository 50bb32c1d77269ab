"""Finding a model by its folder or Hub id. Loads no torch, so that a wrong name is refused at once."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from surgery.config.problems import Problem, UserError
from surgery.config.recognise import other_kind

REACH_SECONDS = 2.0  # for the Hub's name and a connection; without network each of its calls waits for longer
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def locate(model: str | os.PathLike[str], *, code: bool = False) -> tuple[Path, str | None]:
    """Return the folder that holds the checkpoint, and its Hub id if it came from there.

    Args:
        model: a folder or a Hub id.
        code: also download the model's own code.

    Raises:
        UserError: no such folder, something else than a model, or the Hub has no such model or can't be
            reached.
    """
    if is_local(model):
        return Path(model).expanduser(), None
    name = str(model)
    patterns = [*_PATTERNS, *(["*.py"] if code else [])]
    from huggingface_hub import constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline)), name
    except Exception as error:  # network, authentication, no such model: many classes, one meaning here
        if offline:
            rule = "is no folder here, was not downloaded before, and the Hub can't be reached"
            hint = "give the folder of a downloaded model"
        else:
            first = str(error).strip().split("\n", 1)[0]
            rule = f"is no folder here, and the Hub gave {type(error).__name__}: {first[:160]}"
            hint = "give the folder of a downloaded model; a gated one needs `hf auth login`"
        raise UserError("can't read the model", [Problem("model", name, rule, hint)]) from error


def is_local(model: str | os.PathLike[str]) -> bool:
    """Return whether a model is a folder here; False if it can only be a Hub id.

    Raises:
        UserError: it is neither.
    """
    name = str(model)
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            if problem := other_kind(path, "model", "adapter"):
                raise UserError("can't read the model", [problem])
            return True
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("model", name, f"can't be opened: {reason}", "a folder or a Hub id")
        raise UserError("can't read the model", [problem]) from error
    if exists:
        known = other_kind(path, "model")
        problem = known or Problem("model", name, "is not a folder", "a folder or a Hub id")
        raise UserError("can't read the model", [problem])
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise UserError(
            "can't read the model", [Problem("model", name, "does not exist", "a folder or a Hub id")]
        )
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        hint = "a model is a folder or a Hub id"
        raise UserError("can't read the model", [Problem("model", name, "there is no such file", hint)])
    return False


def reachable(endpoint: str) -> bool:
    """Return whether a server can be reached, after at most `REACH_SECONDS`; True behind a proxy."""
    parts = urlsplit(endpoint)
    if urllib.request.getproxies():
        return True
    result: list[bool] = []

    def connect() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=REACH_SECONDS).close()
            result.append(True)
        except OSError:
            result.append(False)

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has no timeout of its own
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(result and result[0])
