"""One engine over HTTP, as far as connections go; answers are tested where real engines run."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.inference.connections import Engine
from core.inference.protocol import CompletionRequest

ASKED = CompletionRequest(model="tiny", prompt=[1, 5], stream=True)


class Counting:
    """An engine that counts connections. `says_done` is false for one that keeps its streams open after the answer."""

    def __init__(self, *, says_done: bool) -> None:
        self.connections = 0
        self.requests = 0
        self._says_done = says_done
        self._serving: set[asyncio.Task[object]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-len"))
                await reader.readexactly(length)
                self.requests += 1
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(_event()))
                if self._says_done:
                    writer.write(_chunk(b"data: [DONE]\n\n") + _chunk(b""))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass  # the client has closed
        finally:
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    async def ended(self) -> None:
        """Wait until every client has left."""
        await asyncio.wait_for(asyncio.gather(*self._serving), 10)


def _event() -> bytes:
    choice = {"index": 0, "text": "", "token_ids": [7, 2], "finish_reason": "stop"}
    return b"data: " + json.dumps({"id": "c", "created": 1, "model": "tiny", "choices": [choice]}).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def _connected(served: Counting) -> AsyncIterator[Engine]:
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = Engine(f"http://127.0.0.1:{port}", api_key=None)
    try:
        yield engine
    finally:
        await engine.aclose()
        server.close()
        await server.wait_closed()
        await served.ended()


async def _answers(served: Counting, *, count: int) -> list[list[int]]:
    found = []
    async with _connected(served) as engine:
        for _ in range(count):
            async for chunk in engine.answer(ASKED):
                found.append(list(chunk.ids))
    return found


def test_answers_one_after_another_share_a_connection() -> None:
    served = Counting(says_done=True)
    assert asyncio.run(_answers(served, count=3)) == [[7, 2]] * 3
    assert served.requests == 3
    assert served.connections == 1


def test_an_engine_that_does_not_end_its_stream_delays_no_answer_for_long() -> None:
    served = Counting(says_done=False)
    assert asyncio.run(asyncio.wait_for(_answers(served, count=2), 30)) == [[7, 2]] * 2
    assert served.connections == 2


def test_a_stream_that_is_left_early_closes_its_connection() -> None:
    async def leave() -> None:
        served = Counting(says_done=False)
        async with _connected(served) as engine:
            chunks = engine.answer(ASKED)
            await anext(chunks)
            assert engine.busy == 1
            await chunks.aclose()
            assert engine.busy == 0
            await served.ended()  # while the client of the engine is still open

    asyncio.run(leave())
