"""Optuna Dashboard for a study's storage, with notes, graphs and artifacts that are kept up to date."""

from __future__ import annotations

import errno
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from studies.reporting.annotator import annotating
from studies.reporting.artifacts import artifact_folder
from studies.reporting.dashboard_view import REPORT, DashboardView
from studies.reporting.report_page import report_page
from studies.storage.optuna_access import storage_of, study_id
from studies.study import Study
from surgery.config.problems import Problem, UserError


class Dashboard:
    """A server that is bound to its port; `serve` blocks until Ctrl-C.

    Raises:
        UserError: the port is in use or not permitted.
    """

    def __init__(
        self, study: Study, host: str, port: int, report: Callable[[Study], str] = report_page
    ) -> None:
        """Bind the port; `report` makes the page of findings that is served beside the dashboard."""
        from optuna.artifacts import FileSystemArtifactStore
        from optuna_dashboard import wsgi

        self.study = study
        app = wsgi(storage_of(study.inner), FileSystemArtifactStore(artifact_folder(study)))
        view = DashboardView(app, Study.open(str(study.folder.resolve()), url=study.url), report)
        try:
            self.server = make_server(host, port, view, server_class=_Server, handler_class=_Quiet)
        except (OSError, OverflowError) as error:
            raise _refused(error, host, port) from error
        self.host, self.port = host, int(self.server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the study's page."""
        return f"http://{self.host}:{self.port}/dashboard/studies/{study_id(self.study.inner)}"

    @property
    def report_url(self) -> str:
        """Address of the page of findings."""
        return f"http://{self.host}:{self.port}{REPORT}"

    def serve(self) -> None:
        """Serve requests, and keep the study's notes, graphs and artifacts up to date."""
        with annotating(self.study):
            try:
                self.server.serve_forever(poll_interval=0.2)
            finally:
                self.server.server_close()


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
