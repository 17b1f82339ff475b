"""What surrounds every request: its id, its log line, who may ask from where, and how much may be sent how slowly.

Plain ASGI, so that streams pass through untouched. Knows no route: an upload's larger limit is a path given to it.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.meters import Meters
from core.errors import Forbidden, Malformed, Problem, TooLarge

access: Final = logging.getLogger("api.access")
log: Final = logging.getLogger("api.middleware")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BODY_IDLE_S: Final = 30.0
LEAST_BYTES_A_S: Final = 1024
"""A body that comes slower than this, over all and beyond the first 30 s, is cut: a byte now and then is no upload."""
LINGER_IDLE_S: Final = 0.5
LINGER_BYTES: Final = 16 * 2**20
SMALL_BYTES: Final = 2**16
"""A body up to here that nobody asked for is read and dropped, so that the connection can be used again."""


class MisdirectedHost(Malformed):
    """The Host header names a host that is not served: a rebinding page, or a proxy that needs configuring."""

    code = "unknown_host"
    title = "Unknown host"


class ForeignOrigin(Forbidden):
    """A browser sends the request for a page of another site."""

    code = "foreign_origin"
    title = "Foreign origin"


class MalformedPath(Malformed):
    """The path holds what no path may."""

    code = "malformed_path"
    title = "Malformed path"


class BodyTooLarge(TooLarge):
    """The body exceeds the limit of its route."""

    code = "body_too_large"
    title = "Body too large"


@dataclass(slots=True)
class Outcome:
    """What the log line says of an answer."""

    status: int = 0
    sent_bytes: int = 0


class Exchange:
    """The outermost layer: gives the request an id, answers for bugs, counts, and writes one JSON line a request.

    The line holds no query, body or header: prompts and keys never reach the log.
    """

    def __init__(self, app: ASGIApp, *, meters: Meters) -> None:
        self.app = app
        self.meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["request_id"] = request_id = _request_id(Headers(scope=scope))
        outcome, began = Outcome(), time.perf_counter()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif message["type"] == "http.response.body":
                outcome.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception:  # a request's outermost frame: a bug is logged here and answered without its text
            log.exception("request failed", extra={"request_id": request_id})
            if outcome.status:
                raise
            body = problems.internal_error(instance=scope["path"])
            await problems.respond(body)(scope, receive, named)
        finally:
            self._note(scope, outcome, seconds=time.perf_counter() - began)
        return None

    def _note(self, scope: Scope, outcome: Outcome, *, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        # Anyone may ask by any word; a series for each would fill the memory.
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.meters.requests.labels(method, route, outcome.status).inc()
        self.meters.request_seconds.labels(route).observe(seconds)
        facts = {
            "request_id": scope["request_id"],
            "method": scope["method"],
            "path": scope["path"][:300],
            "status": outcome.status,
            "seconds": round(seconds, 4),
            "sent_bytes": outcome.sent_bytes,
            "key_id": scope.get("key_id"),
        }
        access.info("answered", extra=facts)


class Gate:
    """Refuse hosts that are not ours and pages of other sites: a key alone must not be usable through a browser.

    Probes (`open_paths`) skip the host check, since balancers ask by address.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Collection[str], open_paths: Collection[str]) -> None:
        self.app = app
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            return await self.app(scope, receive, send)
        await problems.answer(refusal, instance=scope["path"])(scope, receive, send)
        return None

    def _refusal(self, scope: Scope) -> Problem | None:
        if "\0" in scope["path"]:
            return MalformedPath("The path holds the character NUL, which no id and no name has.")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        known = "*" in self.allowed_hosts or _hostname(host) in self.allowed_hosts
        if not known and scope["path"] not in self.open_paths:
            return MisdirectedHost("The Host header names no host of this service; BLUELORA_ALLOWED_HOSTS lists them.")
        if origin is not None and _netloc(origin) != host.lower():
            return ForeignOrigin("Pages of other sites may not call this service.")
        return None


class BodyLimits:
    """Cut bodies that are too large or come too slowly, before and while they are read.

    Args:
        app: What is served.
        limit_bytes: Of every body, except
        larger: `METHOD /path` -> bytes.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int, larger: Mapping[str, int]) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.larger = dict(larger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = self.larger.get(f"{scope['method']} {scope['path']}", self.limit_bytes)
        announced = _announced_bytes(Headers(scope=scope))
        body = _Body(receive, send, limit=limit, announced=announced)
        if announced is not None and announced > limit:
            return await problems.answer(_too_large(limit), instance=scope["path"])(scope, body.receive, body.send)
        await self.app(scope, body.receive, body.send)
        return None


class _Body:
    """One request's body: counted and timed on its way in.

    An answer that is sent before the body has come closes the connection, since what else comes is of no use; but it
    takes in a little more first: a connection closed with unread bytes is reset, and the client may never see why.
    """

    def __init__(self, receive: Receive, send: Send, *, limit: int, announced: int | None) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._announced = announced
        self._taken = 0
        self._waited_s = 0.0
        self._is_complete = announced == 0

    async def receive(self) -> Message:
        """Take the next piece.

        Raises:
            BodyTooSlow: None came for 30 s, or too little over all.
            BodyOverLimit: It goes over the limit.
        """
        message = await self._next(BODY_IDLE_S)
        if self._taken > self._limit:
            raise BodyOverLimit(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on."""
        if message["type"] == "http.response.start":
            if not self._is_complete and self._announced is not None and self._announced <= SMALL_BYTES:
                await self._linger()
            if not self._is_complete:
                MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif self._is_complete or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        most = self._taken + LINGER_BYTES
        with contextlib.suppress(BodyTooSlow):
            while not self._is_complete and self._taken < most:
                await self._next(LINGER_IDLE_S)

    async def _next(self, idle_s: float) -> Message:
        if self._is_complete:  # what may follow is only the client's leaving, which no clock runs for
            return await self._receive()
        # Only waiting counts: what we take to store a piece is not the client's fault.
        left_s = BODY_IDLE_S + self._taken / LEAST_BYTES_A_S - self._waited_s
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(idle_s, left_s)):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow from error
        self._waited_s += time.monotonic() - began
        self._taken += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message


class BodyTooSlow(HTTPException):
    """The client stopped sending in the middle of a body.

    Of starlette's class, since FastAPI reads any other error out of `receive` as a body that does not parse.
    """

    def __init__(self) -> None:
        detail = (
            f"The body came too slowly: nothing for {BODY_IDLE_S:.0f} s, or less than {LEAST_BYTES_A_S} bytes a second."
        )
        super().__init__(408, detail)


class BodyOverLimit(HTTPException):
    """A body without an announced length grew over the limit; of starlette's class for the same reason."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, _too_large(limit).detail)


def _announced_bytes(headers: Headers) -> int | None:
    """How long the body says it is; None where it does not say."""
    if "transfer-encoding" in headers:
        return None
    given = headers.get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() else None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body exceeds the limit of this route, {limit} bytes.")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{os.urandom(12).hex()}"


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _hostname(host: str) -> str | None:
    try:
        split = urlsplit(f"//{host}")
    except ValueError:
        return None
    return split.hostname if split.netloc == host and "@" not in host else None
