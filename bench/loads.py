"""HTTP load for service rows: a closed loop (RPS), an open loop (latency), and probes at a fixed pace.

A bare HTTP/1.1 client on asyncio, since httpx would cost more than what is measured. Knows no row.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from typing_extensions import override

END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class UnexpectedAnswer(Exception):
    """A request was not answered as every request of the load must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, as the bytes that are sent; every answer must have `status`."""

    host: str
    port: int
    sent: bytes
    status: int

    @classmethod
    def to(
        cls, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b"", status: int
    ) -> Self:
        """Write a request down."""
        parts = urlsplit(url)
        given = {"Host": parts.netloc, "Content-Length": str(len(body))} | dict(headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        head = f"{method} {parts.path} HTTP/1.1\r\n{lines}\r\n"
        return cls(host=parts.hostname or "", port=parts.port or 80, sent=head.encode() + body, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Percentiles of one stretch of requests, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum up; at least two are needed."""
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(p50_ms=1000 * cuts[49], p99_ms=1000 * cuts[98], max_ms=1000 * max(seconds))


async def closed(call: Call, *, connections: int, seconds: float) -> float:
    """Send on each connection as soon as its last answer is there; gives requests per second."""
    opened = [await _Connection.to(call) for _ in range(connections)]
    began = time.perf_counter()

    async def keep(connection: "_Connection") -> int:
        answered = 0
        while time.perf_counter() - began < seconds:
            await connection.ask()
            answered += 1
        return answered

    answered = sum(await asyncio.gather(*map(keep, opened)))
    took = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return answered / took


async def opened(call: Call, *, rate: float, seconds: float, seed: int) -> list[float]:
    """Send at `rate` a second whatever the answers do, with exponential gaps; gives each answer's seconds."""
    source = random.Random(seed)
    took: list[float] = []
    async with _Arrivals(call, took) as arrivals:
        at, ends = time.perf_counter(), time.perf_counter() + seconds
        while (at := at + source.expovariate(rate)) < ends:
            await arrivals.send_at(at)
    return took


async def probed(call: Call, work: Awaitable[object], *, every_s: float, also: Callable[[], object]) -> list[float]:
    """Probe at a fixed pace until `work` is done, and call `also` each time; gives each answer's seconds."""
    working = asyncio.ensure_future(work)
    took: list[float] = []
    async with _Arrivals(call, took) as arrivals:
        at = time.perf_counter()
        while not working.done():
            await arrivals.send_at(at)
            also()
            at += every_s
    await working
    return took


class _Arrivals:
    """Requests that wait for no other: each takes an idle connection, or opens one."""

    def __init__(self, call: Call, took: list[float]) -> None:
        self._call = call
        self._took = took
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._ask()
        self._took.clear()  # the first one has waited for its connection
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._asking)
        for connection in self._all:
            connection.close()

    async def send_at(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        task = asyncio.ensure_future(self._ask())
        self._asking.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.exception() is None:  # one that failed stays, for the end to raise
            self._asking.discard(task)

    async def _ask(self) -> None:
        began = time.perf_counter()
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = await _Connection.to(self._call)
            self._all.append(connection)
        await connection.ask()
        self._took.append(time.perf_counter() - began)
        self._idle.append(connection)


class _Connection(asyncio.Protocol):
    """One kept connection; answers must announce their length."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[None]

    def __init__(self, call: Call) -> None:
        self._call = call
        self._received = b""

    @classmethod
    async def to(cls, call: Call) -> Self:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(call), call.host, call.port)
        return connection

    def ask(self) -> Awaitable[None]:
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._call.sent)
        return self._answer

    def close(self) -> None:
        self._transport.close()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(END_OF_HEAD)
        if not separator or len(body) < _length(head):
            return
        status = int(head[9:12])
        if status == self._call.status:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(UnexpectedAnswer(f"{status}: {body[:500].decode(errors='replace')}"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        answer = getattr(self, "_answer", None)
        if answer is not None and not answer.done():
            answer.set_exception(UnexpectedAnswer(f"the connection ended: {exc}"))


def _length(head: bytes) -> int:
    return next(_numbers(head))


def _numbers(head: bytes) -> Iterator[int]:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(LENGTH):
            yield int(line.removeprefix(LENGTH))
