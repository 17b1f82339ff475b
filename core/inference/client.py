"""All engines of a deployment as one: finds who serves a base, brings adapters to it, streams from it.

Keeps no state that an engine's restart would falsify for longer than a few seconds: an engine that does not know an
adapter says so, and gets it. Knows no tensors, no SQL and no store.
"""

import asyncio
import itertools
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.domain.adapters import Adapter
from core.domain.bases import Base
from core.domain.generation import EngineUnavailable, LogitsNotFinite, PromptTooLong, QueueFull, Sampling
from core.inference.connections import RETRY_S, AdapterMissing, Chunk, Engine, NotFinite
from core.inference.protocol import CompletionRequest, LoadAdapter, UnloadAdapter

__all__ = ["Chunk", "EngineState", "Engines", "Lay"]

Lay = Callable[[Adapter, Path], object]
"""Puts an adapter's files into a folder, complete and verified; what is there already stays. Runs in a thread."""

LOADS: Final = 5
"""Tries to get an answer from an engine whose places for adapters are fought over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """How one engine is; they are numbered as in the settings. `bases` is empty while it does not answer."""

    number: int
    is_up: bool
    bases: tuple[str, ...]


class Engines:
    """The engines of a deployment, for one event loop.

    Args:
        urls: Where they are; each is asked which base it serves.
        api_key: Sent to all of them.
        adapter_dir: A folder that they see under the same path.
        lay: Brings an adapter's files there.
    """

    def __init__(self, urls: Sequence[str], *, api_key: str | None, adapter_dir: Path, lay: Lay) -> None:
        self._engines = [Engine(url, api_key=api_key) for url in urls]
        self._adapter_dir = adapter_dir
        self._lay = lay
        self._turn = itertools.count()
        self._loading: weakref.WeakValueDictionary[tuple[Engine, str], asyncio.Lock] = weakref.WeakValueDictionary()
        self._loaded_at: dict[tuple[Engine, str], float] = {}
        self._laying: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def stream(
        self, *, base: Base, adapter: Adapter | None, ids: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Chunk, None]:
        """Answer with a base, alone or with an adapter. Stop strings are the caller's: closing the iterator ends it.

        Another engine that serves the base is tried where one is full or gone, until the first token.

        Raises:
            EngineUnavailable: No engine that serves the base answers.
            QueueFull: None of them has room.
            EngineFailed: The engine broke off.
            BrokenAdapter: The engine refuses the adapter's files.
            LogitsNotFinite: The weights of base or adapter give no finite logits, so that asking again is no help.
            PromptTooLong: The engines read fewer tokens than the base; an engine would cut the answer short instead.
        """
        asked = _request(base.name if adapter is None else adapter.id, ids, sampling)
        problem: EngineUnavailable | QueueFull | PromptTooLong = _nobody(base)
        for engine, reads in await self._serving(base):
            if len(ids) + sampling.max_tokens > reads:
                problem = _too_long(reads)
                continue
            try:
                async with aclosing(self._answer(engine, asked, base=base, adapter=adapter)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (EngineUnavailable, QueueFull) as error:  # raised before the first token only
                problem = error
            else:
                return
        raise problem

    async def health(self) -> tuple[EngineState, ...]:
        """Say how each engine is; an answer is at most some seconds old."""
        served = await asyncio.gather(*(engine.bases() for engine in self._engines))
        return tuple(
            EngineState(number=number, is_up=bases is not None, bases=tuple(bases or ()))
            for number, bases in enumerate(served, start=1)
        )

    async def unload(self, adapter_ids: Sequence[str]) -> None:
        """Have every engine drop adapters that nobody may ask any more."""
        for adapter_id in adapter_ids:
            asked = UnloadAdapter(lora_name=adapter_id)
            await asyncio.gather(*(engine.unload(asked) for engine in self._engines))

    async def aclose(self) -> None:
        """Close all connections."""
        for engine in self._engines:
            await engine.aclose()

    async def _serving(self, base: Base) -> list[tuple[Engine, int]]:
        """List the engines of a base and how many tokens they read, the least busy first, equals in turn."""
        served = await asyncio.gather(*(engine.bases() for engine in self._engines))
        serving = [
            (engine, bases[base.name] or base.context_length)
            for engine, bases in zip(self._engines, served, strict=True)
            if bases is not None and base.name in bases
        ]
        if serving:
            start = next(self._turn) % len(serving)
            serving = serving[start:] + serving[:start]
        return sorted(serving, key=lambda each: each[0].busy)

    async def _answer(
        self, engine: Engine, asked: CompletionRequest, *, base: Base, adapter: Adapter | None
    ) -> AsyncGenerator[Chunk, None]:
        for _ in range(LOADS):
            asked_at = time.monotonic()
            if adapter is not None:
                await self._keep(adapter)
            try:
                async with aclosing(engine.answer(asked)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except AdapterMissing as error:
                if adapter is None:
                    engine.forget()
                    raise _nobody(base) from error
                await self._load(engine, adapter, missed_at=asked_at)
            except NotFinite as error:
                raise _not_finite(base, adapter) from error
            else:
                return
        raise QueueFull("More adapters are in use than the engine has places for; try again.", retry_after_s=RETRY_S)

    async def _keep(self, adapter: Adapter) -> None:
        """Lay an adapter's files out again if somebody has removed them.

        vLLM reads them anew when the adapter's weights have lost their place meanwhile; without them it ends.
        """
        folder = self._folder(adapter)
        if folder.is_dir():
            return
        async with self._laying.setdefault(adapter.id, asyncio.Lock()):
            if not folder.is_dir():
                await asyncio.to_thread(self._lay, adapter, folder)

    async def _load(self, engine: Engine, adapter: Adapter, *, missed_at: float) -> None:
        """Bring an adapter to an engine, once for all requests that missed it at the same time."""
        key = (engine, adapter.id)
        async with self._loading.setdefault(key, asyncio.Lock()):
            if self._loaded_at.get(key, missed_at) > missed_at:
                return
            folder = self._folder(adapter)
            await asyncio.to_thread(self._lay, adapter, folder)
            await engine.load(LoadAdapter(lora_name=adapter.id, lora_path=str(folder)))
            self._loaded_at[key] = time.monotonic()

    def _folder(self, adapter: Adapter) -> Path:
        return self._adapter_dir / f"{adapter.id}-{adapter.sha256[:16]}"


def _request(model: str, ids: Sequence[int], sampling: Sampling) -> CompletionRequest:
    return CompletionRequest(
        model=model,
        prompt=list(ids),
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stream=True,
    )


def _nobody(base: Base) -> EngineUnavailable:
    return EngineUnavailable(f"No engine that serves {base.name} answers; try again later.", retry_after_s=RETRY_S)


def _not_finite(base: Base, adapter: Adapter | None) -> LogitsNotFinite:
    if adapter is None:
        return LogitsNotFinite(f"Base {base.name} gives logits that are not finite; import it again.", param="model")
    return LogitsNotFinite(
        f"Adapter {adapter.reference} gives logits that are not finite: its weights are too large for {base.name}. Train "
        "it again, with a lower learning rate or lora_alpha.",
        param="adapter",
    )


def _too_long(reads: int) -> PromptTooLong:
    return PromptTooLong(
        f"The engine reads {reads} tokens, prompt and answer together; shorten the messages or lower max_tokens.",
        param="max_tokens",
    )
