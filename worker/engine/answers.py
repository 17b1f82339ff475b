"""One answer as the server's event loop sees it: events from the model's thread in, protocol chunks out.

Knows the protocol's shapes and the decoder; knows no HTTP framework and no model.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Literal

from core.inference.protocol import Completion, CompletionChoice, CompletionRequest, Usage
from core.text.decoders import Decoder
from worker.engine.requests import Broken, Event, Request, Token
from worker.engine.shelves import Slot


class Answer:
    """Submits a request and collects what comes.

    Make one on the event loop that shall read it, and `close` it whatever happens. `submit` may raise QueueFull.
    """

    def __init__(
        self, asked: CompletionRequest, slot: Slot | None, *, decoder: Decoder, submit: Callable[[Request], None]
    ) -> None:
        self._asked = asked
        self._decoder = decoder
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._made = 0
        loop = asyncio.get_running_loop()
        self._request = Request(asked, slot, _delivery(loop, self._events))
        submit(self._request)

    def close(self, wake: Callable[[], None]) -> None:
        """Say that nobody reads on; the request's row is free by the next pass."""
        self._request.is_cancelled = True
        wake()

    async def chunks(self) -> AsyncIterator[Completion]:
        """Give the tokens as they come; those that came together share a chunk. Usage follows if it was asked for.

        Raises:
            AnswerBroken, LogitsNotFinite: The engine could not go on.
        """
        reason: Literal["stop", "length"] | None = None
        while reason is None:
            tokens = await self._next_tokens()
            reason = tokens[-1].finish_reason
            yield self._chunk(tokens)
        if self._asked.stream_options is not None and self._asked.stream_options.include_usage:
            yield self._completion(choices=[], usage=self._usage())

    async def whole(self) -> Completion:
        """Wait for the whole answer.

        Raises:
            AnswerBroken, LogitsNotFinite: The engine could not go on.
        """
        parts = [choice async for chunk in self.chunks() for choice in chunk.choices]
        ids = [id_ for part in parts for id_ in part.token_ids or []]
        choice = CompletionChoice(
            text="".join(part.text for part in parts),
            token_ids=ids if self._asked.return_token_ids else None,
            finish_reason=parts[-1].finish_reason,
        )
        return self._completion(choices=[choice], usage=self._usage())

    async def _next_tokens(self) -> list[Token]:
        events = [await self._events.get()]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        tokens = []
        for event in events:
            if isinstance(event, Broken):
                raise event.problem
            tokens.append(event)
        self._made += len(tokens)
        return tokens

    def _chunk(self, tokens: list[Token]) -> Completion:
        ids = [token.id for token in tokens]
        reason = tokens[-1].finish_reason
        text = self._decoder.feed(ids) + (self._decoder.finish() if reason else "")
        shown = ids if self._asked.return_token_ids else None
        return self._completion(
            choices=[CompletionChoice(text=text, token_ids=shown, finish_reason=reason)], usage=None
        )

    def _completion(self, *, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._asked.model, choices=choices, usage=usage)

    def _usage(self) -> Usage:
        prompt = len(self._asked.prompt)
        return Usage(prompt_tokens=prompt, completion_tokens=self._made, total_tokens=prompt + self._made)


def _delivery(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event]") -> Callable[[Event], None]:
    def deliver(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    return deliver
