"""What surrounds every request: its id, its log line, who may ask from where, and how much may be sent how slowly.

Plain ASGI, so that streams pass through untouched. Knows no route: an upload's larger limit is a path given to it.
"""

import asyncio
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
BODY_IDLE_S: Final = 30.0


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
        self.meters.requests.labels(scope["method"], route, outcome.status).inc()
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
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
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
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            response = problems.answer(_too_large(limit), instance=scope["path"])
            response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        await self.app(scope, _limited(receive, limit), send)
        return None


def _limited(receive: Receive, limit: int) -> Receive:
    taken, complete = 0, False

    async def take() -> Message:
        nonlocal taken, complete
        if complete:  # what may follow is only the client's leaving, which no clock runs for
            return await receive()
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                message = await receive()
        except TimeoutError as error:
            raise BodyTooSlow from error
        taken += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if taken > limit:
            raise BodyOverLimit(limit)
        return message

    return take


class BodyTooSlow(HTTPException):
    """The client stopped sending in the middle of a body.

    Of starlette's class, since FastAPI reads any other error out of `receive` as a body that does not parse.
    """

    def __init__(self) -> None:
        detail = f"No byte of the body came for {BODY_IDLE_S:.0f} s."
        super().__init__(408, detail, headers={"Connection": "close"})


class BodyOverLimit(HTTPException):
    """A body without an announced length grew over the limit; of starlette's class for the same reason."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, _too_large(limit).detail, headers={"Connection": "close"})


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body exceeds the limit of this route, {limit} bytes.")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{os.urandom(12).hex()}"


def _hostname(host: str) -> str | None:
    try:
        split = urlsplit(f"//{host}")
    except ValueError:
        return None
    return split.hostname if split.netloc == host and "@" not in host else None
