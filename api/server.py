"""uvicorn as we run it: logs as JSON lines, and connections that must get to the point.

Knows no route and no setting.
"""

import asyncio
import json
import logging
import sys
import time
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S: Final = 30.0
KEEP_ALIVE_S: Final = 75
GRACE_S: Final = 20
MAX_HEADER_BYTES: Final = 32 * 1024
# What every record has; anything beside these came by `extra` and belongs on the line.
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object a record, control characters escaped, so that nothing in a request can forge a line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        facts = {key: value for key, value in vars(record).items() if key not in STANDARD}
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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


def log_json_lines(level: int = logging.INFO) -> None:
    """Send every log record of this process to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def config(app: ASGIApp, *, host: str, port: int) -> uvicorn.Config:
    """Say how uvicorn shall serve; tests serve by the same."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
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
    log_json_lines()
    server = uvicorn.Server(config(app, host=host, port=port))
    server.run()
    if not server.started:
        raise SystemExit(1)
