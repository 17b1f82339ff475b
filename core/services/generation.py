"""Generating: who answers, what is sent, and the answer as it comes.

Synchronous where SQL is read and text is rendered, async where tokens are waited for. Knows no HTTP and no engine's
protocol: engines get ids and give ids (core/inference).
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar

from core.db.transactions import Database, snapshot
from core.domain.adapters import Adapter, AdapterNotFound, InvalidReference
from core.domain.bases import Base, BaseNotFound
from core.domain.generation import (
    EngineFailed,
    EngineUnavailable,
    Message,
    ModelNotFound,
    Piece,
    PromptTooLong,
    QueueFull,
    Sampling,
    Target,
    TemplateMismatch,
)
from core.domain.keys import Caller
from core.domain.pages import MAX_LIMIT, Filters, Page
from core.domain.stops import StopFinder
from core.inference.client import Engines
from core.services import adapters, bases
from core.services.renderers import Renderers
from core.services.usage import Account, Ledger
from core.text.chat import Renderer

Listed = TypeVar("Listed", Base, Adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question ready to be sent: rendered, and known to fit. `system` says where its system text came from."""

    target: Target
    ids: Sequence[int]
    sampling: Sampling
    system: Literal["request", "adapter", "none"]
    renderer: Renderer


def resolve(reference: str | None, *, caller: Caller, database: Database, default_base: str | None) -> Target:
    """Find who shall answer.

    Args:
        reference: An adapter's; None means the default base alone.
        caller: Whose adapters are looked at.
        database: Where.
        default_base: Its configured name; None works while exactly one base is imported.

    Raises:
        InvalidReference: The text is no reference.
        AdapterNotFound: There is none, or it is not the caller's.
        BaseNotFound: There is no such base, or not one alone.
        TemplateMismatch: The adapter was trained with another chat format than its base has now.
    """
    if reference is None:
        return Target(base=bases.default(default_base, database=database), adapter=None)
    return _with_base(adapters.get(reference, caller=caller, database=database), database=database)


def resolve_model(model: str, *, caller: Caller, database: Database) -> Target:
    """Find who shall answer by the names that OpenAI's clients use: a base's, any reference, or `ft:…`.

    Raises:
        ModelNotFound: Neither a base nor an adapter of the caller's.
        TemplateMismatch: As in `resolve`.
    """
    try:
        return Target(base=bases.get(model, database=database), adapter=None)
    except BaseNotFound:
        pass
    try:
        adapter = adapters.get(_from_openai(model, caller=caller), caller=caller, database=database)
    except (AdapterNotFound, InvalidReference) as error:
        shown = model[:100]
        raise ModelNotFound(f"There is no model {shown!r}; GET /v1/models lists them.", param="model") from error
    target = _with_base(adapter, database=database)
    if model.startswith("ft:") and model.split(":")[1].lower() != target.base.name.lower():
        raise ModelNotFound(f"{adapter.reference} is an adapter of {target.base.name}.", param="model")
    return target


def targets(*, caller: Caller, database: Database) -> list[Target]:
    """List who can answer the caller: every base alone, then every adapter of the project, newest first."""
    with snapshot(database) as tx:
        known = _every(lambda filters: tx.bases.page(filters, after=filters.after))
        own = _every(lambda filters: tx.adapters.page(filters, project_id=caller.project_id, after=filters.after))
    by_id = {base.id: base for base in known}
    alone = [Target(base=base, adapter=None) for base in known]
    return alone + [Target(base=by_id[adapter.base_id], adapter=adapter) for adapter in own]


def prepare(target: Target, messages: Sequence[Message], sampling: Sampling, *, renderers: Renderers) -> Prompt:
    """Render a conversation and check that question and answer fit the base's context.

    A `max_tokens` that was sent must fit as it is; the default gives way to what room there is.

    Raises:
        InvalidMessages: Roles out of order, or nothing asked.
        PromptTooLong: They don't fit; says by how much.
    """
    renderer = renderers.of(target.base)
    stored = target.adapter.system_prompt if target.adapter is not None else None
    fewest = renderer.fewest(messages, system=stored)
    if fewest >= target.base.context_length:
        raise PromptTooLong(_too_long(target, prompt=f"at least {fewest}"), param="messages")
    ids = renderer.prompt(messages, system=stored)
    room = target.base.context_length - len(ids)
    wanted = sampling.max_tokens if "max_tokens" in sampling.model_fields_set else min(sampling.max_tokens, room)
    if room < 1:
        raise PromptTooLong(_too_long(target, prompt=str(len(ids))), param="messages")
    if wanted > room:
        raise PromptTooLong(
            f"{_reads(target)}; the prompt has {len(ids)} and max_tokens asks for {wanted}. "
            f"Send max_tokens of at most {room}.",
            param="max_tokens",
        )
    return Prompt(
        target=target,
        ids=ids,
        sampling=sampling.model_copy(update={"max_tokens": wanted}),
        system=_system_source(messages, stored),
        renderer=renderer,
    )


async def stream(prompt: Prompt, *, caller: Caller, engines: Engines, usage: Ledger) -> AsyncGenerator[Piece, None]:
    """Give the answer as it comes; closing the iterator frees the engine's slot. What it cost is counted at the end.

    Raises:
        QueueFull: The engine takes no more requests now.
        EngineUnavailable: No engine serves the base.
        EngineFailed: It broke off; text may have been given before.
        LogitsNotFinite: The weights can't answer this; text may have been given before.
    """
    counted, refused = 0, False
    try:
        async with aclosing(_pieces(prompt, engines=engines)) as pieces:
            async for piece in pieces:
                counted = piece.completion_tokens
                yield piece
    except (QueueFull, EngineUnavailable):  # no engine has read the prompt
        refused = True
        raise
    finally:
        if not refused:
            adapter = prompt.target.adapter
            account = Account(
                project_id=caller.project_id,
                key_id=caller.key_id,
                adapter_id=None if adapter is None else adapter.id,
            )
            usage.add(account, prompt_tokens=len(prompt.ids), completion_tokens=counted)


async def _pieces(prompt: Prompt, *, engines: Engines) -> AsyncGenerator[Piece, None]:
    decoder, finder, counted = prompt.renderer.decoder(), StopFinder(prompt.sampling.stop), 0
    target = prompt.target
    asked = engines.stream(base=target.base, adapter=target.adapter, ids=prompt.ids, sampling=prompt.sampling)
    async with aclosing(asked) as chunks:
        async for chunk in chunks:
            counted += len(chunk.ids)
            text = finder.feed(decoder.feed(chunk.ids))
            if chunk.finish_reason is not None and not finder.found:
                text += finder.feed(decoder.finish())
            if finder.found:
                yield Piece(text=text, completion_tokens=counted, finish_reason="stop")
                return
            if chunk.finish_reason is not None:
                yield Piece(text=text + finder.finish(), completion_tokens=counted, finish_reason=chunk.finish_reason)
                return
            yield Piece(text=text, completion_tokens=counted)
    raise EngineFailed("The engine ended its answer without saying why; try again.", retry_after_s=1.0)


def _every(page: Callable[[Filters], Page[Listed]]) -> list[Listed]:
    """Read a whole list, page by page."""
    found: list[Listed] = []
    filters, more = Filters(limit=MAX_LIMIT), True
    while more:
        read = page(filters)
        found.extend(read.data)
        more = read.has_more
        filters = Filters(limit=MAX_LIMIT, after=found[-1].id if more else None)
    return found


def _with_base(adapter: Adapter, *, database: Database) -> Target:
    base = bases.get(adapter.base_id, database=database)
    if adapter.template_hash != base.template_hash:
        raise TemplateMismatch(
            f"{adapter.reference} was trained with another chat format than {base.name} has here; train it again."
        )
    return Target(base=base, adapter=adapter)


def _from_openai(model: str, *, caller: Caller) -> str:
    """Read `ft:BASE:PROJECT:NAME[:VERSION]` as `NAME[@VERSION]`; any other text is a reference as it is.

    Raises:
        InvalidReference: It starts with `ft:` and is of another shape, or names another project.
    """
    if not model.startswith("ft:"):
        return model
    parts = model.split(":")
    if len(parts) not in {4, 5} or parts[2] != caller.project:
        raise InvalidReference("Write ft:BASE:PROJECT:NAME or ft:BASE:PROJECT:NAME:VERSION.", param="model")
    return "@".join(parts[3:])


def _system_source(messages: Sequence[Message], stored: str | None) -> Literal["request", "adapter", "none"]:
    own = messages[0].content if messages and messages[0].role == "system" else None
    if own is not None:
        return "request" if own.strip() else "none"
    return "adapter" if stored and stored.strip() else "none"


def _too_long(target: Target, *, prompt: str) -> str:
    return f"{_reads(target)}; the prompt alone has {prompt}. Shorten the messages."


def _reads(target: Target) -> str:
    return f"{target.base.name} reads {target.base.context_length} tokens, prompt and answer together"
