"""uvicorn as we run it: logs as JSON lines, and connections that must get to the point.

Knows no route and no setting.
"""

import asyncio
from types import FrameType
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from core import logs

HEADERS_S: Final = 30.0
KEEP_ALIVE_S: Final = 75
GRACE_S: Final = 20
MAX_HEADER_BYTES: Final = 32 * 1024


class PromptProtocol(H11Protocol):
    """HTTP/1.1 whose request heads must be complete 30 s after the connection, or their first byte, came.

    uvicorn 0.54 has no such limit: its keep-alive clock stops at the first byte that follows an answer.
    """

    head_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._unwatch_head()
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(HEADERS_S, self.transport.close)

    def _unwatch_head(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


class OrderlyServer(uvicorn.Server):
    """Ends with status 0 after a signal: uvicorn 0.54 raises it again at the end, which supervisors read as a crash."""

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def config(app: ASGIApp, *, host: str, port: int) -> uvicorn.Config:
    """Say how uvicorn shall serve; tests serve by the same."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # Named, so that what else is installed (uvloop, whose subprocesses take fewer options) changes nothing.
        loop="asyncio",
        http=PromptProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


def serve(app: ASGIApp, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish what runs, for 20 s at most.

    Raises:
        SystemExit: The service could not start; the log says why.
    """
    logs.start()
    server = OrderlyServer(config(app, host=host, port=port))
    server.run()
    if not server.started:
        raise SystemExit(1)
