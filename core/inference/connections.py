"""One engine over HTTP: what it serves, one answer from it, one adapter for it.

Turns statuses, time-outs and broken streams into typed errors. Knows no other engine and no adapter's files.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import httpx
from pydantic import TypeAdapter, ValidationError

from core.domain.adapters import BrokenAdapter
from core.domain.generation import EngineFailed, EngineUnavailable, QueueFull
from core.inference.protocol import (
    NOT_FINITE,
    Completion,
    CompletionRequest,
    EngineFailure,
    LoadAdapter,
    ModelList,
    UnloadAdapter,
)

log = logging.getLogger(__name__)

FRESH_S: Final = 5.0
"""How long it is believed that an engine serves what it said."""
GONE_S: Final = 1.0
"""How long it is believed that an engine does not answer."""
PROBE_S: Final = 2.0
FIRST_TOKEN_S: Final = 120.0
"""An engine may queue a request; vLLM sends nothing meanwhile."""
NEXT_TOKEN_S: Final = 60.0
LOAD_S: Final = 90.0
RETRY_S: Final = 2.0
READ_OUT_S: Final = 0.1
IDLE_S: Final = 2.0
"""How long a connection is kept for the next request. uvicorn and vLLM close theirs after 5 s: one that they close as we
write looks like an engine gone."""

_CHUNK: Final = TypeAdapter[Completion | EngineFailure](Completion | EngineFailure)


class AdapterMissing(Exception):
    """The engine has no model of the name that was asked for; internal to this package."""


class NotFinite(Exception):
    """The weights of what was asked gave no finite logits; internal to this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """More ids of an answer, `</s>` included. The last chunk has a `finish_reason`."""

    ids: Sequence[int]
    finish_reason: Literal["stop", "length"] | None = None


class Engine:
    """One engine, and what is known of it from asking it."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        timeout = httpx.Timeout(PROBE_S, read=FIRST_TOKEN_S)
        # Proxies of the environment are for the world outside; and each running stream needs a connection of its own.
        self._transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=IDLE_S),
            trust_env=False,
        )
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=self._transport)
        self._completions = httpx.URL(f"{url}/v1/completions")
        self._headers = headers | {"Content-Type": "application/json", "Host": self._completions.netloc.decode()}
        self._extensions = {"timeout": timeout.as_dict()}
        self._asking = asyncio.Lock()
        self._bases: Mapping[str, int | None] | None = None
        self._asked_at = float("-inf")
        self.busy = 0

    async def bases(self) -> Mapping[str, int | None] | None:
        """Name the bases it serves, and how many tokens it reads if it says so; None while it does not answer."""
        async with self._asking:
            if time.monotonic() - self._asked_at > (GONE_S if self._bases is None else FRESH_S):
                self._bases = await self._ask()
                self._asked_at = time.monotonic()
            return self._bases

    def forget(self) -> None:
        """Ask again next time: it behaved as if it had changed."""
        self._asked_at = float("-inf")

    async def answer(self, asked: CompletionRequest) -> AsyncGenerator[Chunk, None]:
        """Stream one answer; closing the iterator closes the connection, which frees the engine's slot.

        Raises:
            AdapterMissing: It has no such model.
            QueueFull: It takes no more requests now.
            EngineUnavailable: It can't be reached, or ended before the first token.
            EngineFailed: It broke off.
            NotFinite: Base or adapter can't answer this.
        """
        self.busy += 1
        has_begun = False
        try:
            async with self._opened(asked) as response:
                await _check(response)
                async with aclosing(_chunks(response)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        if chunk.finish_reason is not None:
                            await _read_out(chunks)
                        yield chunk
                        if chunk.finish_reason is not None:
                            return
        except (httpx.TransportError, TimeoutError) as error:
            log.warning("an engine's answer ended early: %r", error)
            self.forget()
            raise _broken_off() if has_begun else _unreachable() from error
        finally:
            self.busy -= 1
        raise _broken_off() if has_begun else _unreachable()

    @contextlib.asynccontextmanager
    async def _opened(self, asked: CompletionRequest) -> AsyncGenerator[httpx.Response, None]:
        """Send a request; past the client, whose URLs, cookies and redirects cost a third of what httpx does."""
        request = httpx.Request(
            "POST",
            self._completions,
            headers=self._headers,
            content=asked.model_dump_json(exclude_none=True).encode(),
            extensions=self._extensions,
        )
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    async def load(self, adapter: LoadAdapter) -> None:
        """Have it load an adapter; one that it has already is fine.

        Raises:
            BrokenAdapter: It refuses the files.
            QueueFull: All its places are in use.
            EngineUnavailable: It can't be reached, or does not see the files.
        """
        try:
            response = await self._http.post("/v1/load_lora_adapter", json=adapter.model_dump(), timeout=LOAD_S)
        except httpx.TransportError as error:
            self.forget()
            raise _unreachable() from error
        if response.is_success or (response.status_code == 400 and "already been loaded" in response.text):
            return
        log.warning(
            "an engine refused adapter %s: %d %s", adapter.lora_name, response.status_code, response.text[:1000]
        )
        if response.status_code in {429, 503}:
            raise _full(response)
        if response.status_code == 404:
            raise EngineUnavailable(
                "The engine does not find the adapter's folder, or loads none while it runs; its operator has to start it "
                "for that and to share the folder of adapters with it."
            )
        # vLLM answers 500 to files that it can't use, and when it breaks down itself.
        if response.status_code in {400, 422} or (response.status_code == 500 and await self._is_healthy()):
            raise BrokenAdapter(
                f"The engine can't load adapter {adapter.lora_name}: its files are damaged, of another base or chat "
                "format, or of a larger rank than the engine allows.",
                param="adapter",
            )
        raise EngineUnavailable("The engine failed while it loaded the adapter.", retry_after_s=RETRY_S)

    async def unload(self, adapter: UnloadAdapter) -> None:
        """Have it drop an adapter; one that it has not, or an engine that is gone, is fine."""
        try:
            response = await self._http.post("/v1/unload_lora_adapter", json=adapter.model_dump(), timeout=PROBE_S)
        except httpx.TransportError:
            self.forget()
            return
        if response.is_error and response.status_code not in {400, 404}:
            log.warning("an engine does not unload adapter %s: %d", adapter.lora_name, response.status_code)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _is_healthy(self) -> bool:
        try:
            response = await self._http.get("/health", timeout=PROBE_S)
        except httpx.TransportError:
            return False
        return response.is_success

    async def _ask(self) -> Mapping[str, int | None] | None:
        try:
            response = await self._http.get("/v1/models", timeout=PROBE_S)
            response.raise_for_status()
            cards = ModelList.model_validate_json(response.content).data
        except (httpx.HTTPError, ValidationError) as error:
            log.warning("an engine does not say what it serves: %r", error)
            return None
        return {card.id: card.max_model_len for card in cards if card.parent is None}


async def _check(response: httpx.Response) -> None:
    """Raise what a status other than 200 means."""
    if response.status_code == 200:
        return
    text = (await response.aread()).decode(errors="replace")
    if response.status_code == 404:
        raise AdapterMissing
    log.warning("an engine refused a request: %d %s", response.status_code, text[:1000])
    if response.status_code in {429, 503}:
        raise _full(response)
    if response.status_code in {401, 403}:
        raise EngineUnavailable("The engine does not take this service's key; its operator has to set it.")
    raise EngineFailed("The engine could not answer this request.", retry_after_s=RETRY_S)


async def _chunks(response: httpx.Response) -> AsyncGenerator[Chunk, None]:
    wait_s = FIRST_TOKEN_S
    async with aclosing(_data(response)) as events:
        while True:
            async with asyncio.timeout(wait_s):
                data = await anext(events, None)
            if data is None:
                return
            chunk = _parsed(data)
            if chunk is not None:
                yield chunk
                wait_s = NEXT_TOKEN_S


async def _read_out(chunks: AsyncGenerator[Chunk, None]) -> None:
    """Read a finished answer's stream to its end, if that is there: only then can its connection be used again."""
    with contextlib.suppress(TimeoutError, httpx.TransportError, EngineFailed):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in chunks:
                pass


async def _data(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Give the payload of each server-sent event but `[DONE]`, to the end of the body.

    `aiter_lines` would split at U+2028 and its like too, which stand in text unescaped.
    """
    pending = b""
    received: AsyncIterator[bytes] = response.aiter_bytes()
    async for more in received:
        *lines, pending = (pending + more).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data != b"[DONE]":
                yield data


def _parsed(data: bytes) -> Chunk | None:
    """Read one event; None where it tells of no token."""
    try:
        event = _CHUNK.validate_json(data)
    except ValidationError as error:
        log.warning("an engine sent what is no chunk: %r", data[:1000])
        raise EngineFailed("The engine speaks another protocol than this service.") from error
    if isinstance(event, EngineFailure):
        log.warning("an engine gave an answer up: %s", event.error.message)
        raise NotFinite if event.error.type == NOT_FINITE else _broken_off()
    if not event.choices:
        return None
    choice = event.choices[0]
    if choice.token_ids is None:
        raise EngineFailed("The engine gives no token ids; it is too old for this service.")
    if choice.finish_reason == "abort":
        raise _broken_off()
    if not choice.token_ids and choice.finish_reason is None:
        return None
    return Chunk(ids=choice.token_ids, finish_reason=choice.finish_reason)


def _full(response: httpx.Response) -> QueueFull:
    given = response.headers.get("retry-after", "")
    return QueueFull(
        "The engine has as many requests as it takes; try again later.",
        retry_after_s=float(given) if given.isdecimal() else RETRY_S,
    )


def _unreachable() -> EngineUnavailable:
    return EngineUnavailable("The engine does not answer; try again in a moment.", retry_after_s=RETRY_S)


def _broken_off() -> EngineFailed:
    return EngineFailed("The engine broke off in the middle of this answer; try again.", retry_after_s=RETRY_S)
