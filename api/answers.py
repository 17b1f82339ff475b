"""An answer on its way out: one JSON document, or server-sent events in OpenAI's shape.

Both surfaces use it; what differs is in `Manner`. Knows no route and no engine.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from api import problems
from api.meters import Meters
from api.schemas.adapters import AdapterRefOut
from api.schemas.generations import (
    AnswerOut,
    ChatCompletionOut,
    ChoiceOut,
    ChunkChoiceOut,
    ChunkOut,
    DeltaOut,
    GenerationOut,
    UsageOut,
)
from core.domain import ids
from core.domain.generation import Piece
from core.errors import Problem
from core.services.generation import Prompt

T = TypeVar("T")
Pieces = AsyncGenerator[Piece, None]
DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the caller wants the answer.

    `native` names the adapter in the body and, in a stream, counts tokens in the last chunk; OpenAI's clients get
    a chunk of its own for that, if they asked for it (`include_usage`).
    """

    stream: bool
    native: bool
    include_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer's identity: what all its chunks share."""

    prompt: Prompt
    manner: Manner
    id: str = field(default_factory=lambda: ids.new("gen"))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        """Who answers, readable without the body."""
        target = self.prompt.target
        named = {"x-base-revision": target.base.fingerprint, "x-system-prompt": self.prompt.system}
        if target.adapter is not None:
            named |= {"x-adapter-id": target.adapter.id, "x-adapter-sha256": target.adapter.sha256}
            if target.adapter.version is not None:
                named["x-adapter-version"] = str(target.adapter.version)
        return named

    @property
    def shared(self) -> dict[str, Any]:
        """The members that every body of this answer has."""
        target = self.prompt.target
        return {
            "id": self.id,
            "created": self.created,
            "model": target.reference,
            "system_fingerprint": f"fp_{target.base.fingerprint[:12]}",
        }

    def usage(self, completion_tokens: int) -> UsageOut:
        """Count tokens."""
        read = len(self.prompt.ids)
        return UsageOut(prompt_tokens=read, completion_tokens=completion_tokens, total_tokens=read + completion_tokens)


async def respond(prompt: Prompt, pieces: Pieces, *, manner: Manner, request: Request, meters: Meters) -> Response:
    """Answer with all of it, or begin a stream once the first piece is there: until then errors have a status."""
    answer = Answer(prompt=prompt, manner=manner)
    counted = _counted(pieces, prompt=prompt, meters=meters)
    if not manner.stream:
        body = await _unless_gone(request, _whole(answer, counted))
        return JSONResponse(body.model_dump(), headers=answer.headers)
    first = await _unless_gone(request, anext(counted))
    events = _events(answer, first, counted, instance=request.scope["path"])
    headers = answer.headers | {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _whole(answer: Answer, pieces: Pieces) -> ChatCompletionOut:
    texts: list[str] = []
    async with aclosing(pieces) as opened:
        async for piece in opened:
            texts.append(piece.text)
            last = piece
    choice = ChoiceOut(message=AnswerOut(content="".join(texts)), finish_reason=last.finish_reason or "stop")
    members = answer.shared | {"choices": [choice], "usage": answer.usage(last.completion_tokens)}
    if not answer.manner.native:
        return ChatCompletionOut(**members)
    adapter = answer.prompt.target.adapter
    return GenerationOut(**members, adapter=None if adapter is None else AdapterRefOut.of(adapter))


async def _events(answer: Answer, first: Piece, pieces: Pieces, *, instance: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces) as opened:
        yield _chunk(answer, DeltaOut(role="assistant", content=""))
        try:
            last = first
            for line in _lines(answer, first):
                yield line
            async for piece in opened:
                last = piece
                for line in _lines(answer, piece):
                    yield line
        except Problem as problem:
            yield _data(problems.render(problem, instance=instance).model_dump_json())
            return
    if answer.manner.include_usage:
        closing = ChunkOut(**answer.shared, choices=[], usage=answer.usage(last.completion_tokens))
        yield _data(closing.model_dump_json())
    yield DONE


def _lines(answer: Answer, piece: Piece) -> list[bytes]:
    """Write one piece: its text, unless there is none yet, and its end."""
    lines = [_chunk(answer, DeltaOut(content=piece.text))] if piece.text else []
    if piece.finish_reason is not None:
        lines.append(_chunk(answer, DeltaOut(), end=piece))
    return lines


def _chunk(answer: Answer, delta: DeltaOut, *, end: Piece | None = None) -> bytes:
    choice = ChunkChoiceOut(delta=delta, finish_reason=None if end is None else end.finish_reason)
    body = ChunkOut(**answer.shared, choices=[choice]).model_dump()
    body["choices"][0]["delta"] = delta.model_dump(exclude_none=True)
    if not answer.manner.include_usage:
        del body["usage"]
    if answer.manner.native and end is not None:
        body["usage"] = answer.usage(end.completion_tokens).model_dump()
    return _data(json.dumps(body, ensure_ascii=False, separators=(",", ":")))


def _data(text: str) -> bytes:
    return f"data: {text}\n\n".encode()


async def _counted(pieces: Pieces, *, prompt: Prompt, meters: Meters) -> Pieces:
    """Pass pieces on, counting them for /metrics."""
    began, written = time.perf_counter(), None
    with meters.streams.track_inprogress():
        async with aclosing(pieces) as opened:
            async for piece in opened:
                if written is None:
                    meters.first_token_seconds.observe(time.perf_counter() - began)
                    meters.tokens.labels("prompt").inc(len(prompt.ids))
                meters.tokens.labels("completion").inc(piece.completion_tokens - (written or 0))
                written = piece.completion_tokens
                yield piece


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for `work`, but drop it when the client leaves, so that its slot at the engine is free at once.

    Raises:
        ClientDisconnect: The client left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
