"""`--watch` outlives an API that restarts, and says when it gives up."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console
from typing_extensions import override

from cli import watch
from cli.remote import Service
from cli.screen import Unreachable

PROGRESS = {"step": 1, "total_steps": 2, "loss": 1.5, "tokens_per_second": 10.0, "eta_seconds": 1}


@contextmanager
def _api(port: int, status: str) -> Iterator[threading.Event]:
    """An API that knows one job in one status; the event is set once it was asked."""
    asked = threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": status, "phase": "training", "status_reason": None, "progress": PROGRESS})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())
            asked.set()

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", port), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_watch_goes_on_after_the_service_was_away() -> None:
    port, told = _free_port(), io.StringIO()
    seen: list[str] = []

    def follow() -> None:
        service = Service(f"http://127.0.0.1:{port}", "key")
        seen.append(watch.follow(service, "job_1", console=Console(file=told))["status"])

    with _api(port, "running") as asked:
        watching = threading.Thread(target=follow)
        watching.start()
        assert asked.wait(10)
    gone = "does not answer"
    while gone not in told.getvalue():
        watching.join(0.02)
        assert watching.is_alive()
    with _api(port, "succeeded"):
        watching.join(10)
    assert seen == ["succeeded"]
    assert told.getvalue().count(gone) == 1


def test_a_watch_gives_up_when_the_service_stays_away() -> None:
    service = Service(f"http://127.0.0.1:{_free_port()}", "key")
    with pytest.raises(Unreachable):
        watch.follow(service, "job_1", console=Console(file=io.StringIO()), patience_s=0.1)
