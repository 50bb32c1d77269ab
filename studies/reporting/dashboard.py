"""Optuna Dashboard for a study's storage, with notes that are updated while it serves."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from studies.reporting.dashboard_notes import write_notes
from studies.storage.opening import STORAGE_ERRORS
from studies.storage.optuna_access import storage_of, study_id
from studies.study import Study
from surgery.config.problems import Problem, UserError

NOTES_SECONDS = 20.0

log = logging.getLogger(__name__)


class Dashboard:
    """A server that is bound to its port; `serve` blocks until Ctrl-C.

    Raises:
        UserError: the port is in use or not permitted.
    """

    def __init__(self, study: Study, host: str, port: int) -> None:
        from optuna_dashboard import wsgi

        self.study = study
        self.closing = threading.Event()
        app = wsgi(storage_of(study.inner))
        try:
            self.server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
        except (OSError, OverflowError) as error:
            raise _refused(error, host, port) from error
        self.host, self.port = host, int(self.server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the study's page."""
        return f"http://{self.host}:{self.port}/dashboard/studies/{study_id(self.study.inner)}"

    def serve(self, on_notes: Callable[[int], None] | None = None) -> None:
        """Serve requests; write notes at the start and every NOTES_SECONDS."""
        notes = threading.Thread(target=self._keep_notes, args=(on_notes,), daemon=True, name="notes")
        notes.start()
        try:
            self.server.serve_forever(poll_interval=0.2)
        finally:
            self.closing.set()
            self.server.server_close()
            notes.join(timeout=5)

    def _keep_notes(self, on_notes: Callable[[int], None] | None) -> None:
        while not self.closing.is_set():
            try:
                written = write_notes(self.study)
                if on_notes is not None and written:
                    on_notes(written)
            except STORAGE_ERRORS as error:
                log.warning("the study can only be read, so it gets no notes: %s", error)
                return
            except Exception:  # a failed note must not end the dashboard: the next round retries
                log.exception("notes can't be written")
            self.closing.wait(NOTES_SECONDS)


class _Server(ThreadingMixIn, WSGIServer):
    """A threaded server, so that a slow plot does not block the page."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A request handler that logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _refused(error: OSError | OverflowError, host: str, port: int) -> UserError:
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        problem = Problem(
            "--port", port, "is taken by another program", "choose another, or 0 for any free one"
        )
    elif code == errno.EACCES:
        problem = Problem("--port", port, "may not be used by you", "choose one from 1024 up")
    elif isinstance(error, OverflowError):
        problem = Problem("--port", port, "must be from 0 to 65535")
    else:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(
            "--host", host, f"can't be listened on: {reason}", "127.0.0.1 is this machine alone"
        )
    return UserError("can't start the dashboard", [problem])
