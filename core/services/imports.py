"""Adapters that were trained elsewhere: judged while they arrive, kept in our words, registered beside our own."""

import asyncio
import contextlib
import hashlib
import json
import platform
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from core import __version__
from core.db.clocks import wall
from core.db.transactions import Database, Transaction, snapshot, transaction
from core.domain import ids, loras
from core.domain.adapters import Adapter, AdapterFile, BrokenAdapter, NameTaken, broken
from core.domain.bases import Base, BaseUnusable
from core.domain.generation import TemplateMismatch
from core.domain.imports import AdapterImport, Candidate
from core.domain.keys import Caller
from core.domain.linears import LlamaSizes
from core.domain.loraweights import Verdict
from core.services import bases, idempotency, inspectors, uploads
from core.services.adapter_inspection import Asked
from core.services.idempotency import Stored
from core.services.inspectors import InspectionFailed, Inspector
from core.services.submissions import Policy
from core.services.uploads import UploadLimits
from core.storage import bundles
from core.storage.objects import ObjectTooLarge, Received, Store

CREATED: Final = 201
FOUND: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The adapter's id, what its request is answered, and whether an earlier request with the same key made it.

    The answer's status is 201 for a new version, 200 for one that was there.
    """

    adapter_id: str
    answer: Stored
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Checked and stored weights that ask for a row."""

    candidate: Candidate
    received: Received
    caller: Caller
    key: str | None
    show: Callable[[Adapter], str]


class _New(Exception):
    """Nothing is there yet that the offer could mean."""


async def receive(
    weights: AsyncIterator[bytes],
    *,
    said: AdapterImport,
    config: bytes,
    caller: Caller,
    key: str | None,
    store: Store,
    database: Database,
    policy: Policy,
    limits: UploadLimits,
    show: Callable[[Adapter], str],
) -> Imported:
    """Take in one adapter: everything but the weights is judged before they are read, those while they arrive.

    The row comes last, so that rows always point to bytes. The same files, base and system prompt under one name are
    the version that is there; others are the name's next version.

    Args:
        weights: The bytes of adapter_model.safetensors, kept as they are.
        said: What the caller says of it.
        config: The whole adapter_config.json; what is kept says the same in our words.
        caller: Whose adapter it becomes.
        key: The Idempotency-Key, if one came.
        store: Where the bytes go.
        database: Where the row goes.
        policy: The default base, and the largest rank.
        limits: Of size and time.
        show: Writes the answer, a JSON object with the adapter's `id`, which is kept under the key.

    Raises:
        BaseNotFound, BaseUnusable: Of the base that is meant.
        NameTaken: A base is called so.
        TemplateMismatch: The adapter was trained with another chat format.
        BrokenAdapter: The files are not a plain LoRA for this base; raised before their end if that is plain.
        KeyReused, KeyInFlight: Of the idempotency key.
        StorageFull: No room.
        Unavailable: The store, the database or the inspecting process does not answer.
    """
    candidate = await asyncio.to_thread(_candidate, said, config, store=store, database=database, policy=policy)
    size = min(candidate.largest_bytes, limits.bytes)
    limit = UploadLimits(bytes=size, validation_wait_s=limits.validation_wait_s)
    async with _received(weights, candidate, store=store, limits=limit) as received:
        offer = _Offer(candidate=candidate, received=received, caller=caller, key=key, show=show)
        there = await asyncio.to_thread(_there, offer, database)
    if there is not None:
        await asyncio.to_thread(store.delete, received.key)
        return there
    # A caller who hangs up here does not stop the thread, so the bytes stay: either a row holds them, or a sweep
    # takes them in a day.
    return await asyncio.to_thread(_published, offer, store, database)


def _candidate(said: AdapterImport, config: bytes, *, store: Store, database: Database, policy: Policy) -> Candidate:
    with snapshot(database) as tx:
        base = bases.choose(tx, said.base, default=policy.default_base, param="base")
        _check_name(tx, said)
    if said.template_hash not in {None, base.template_hash}:
        raise TemplateMismatch(
            f"The adapter was trained with the chat format {said.template_hash}, but {base.name} has "
            f"{base.template_hash}; import it to the base that it was trained on.",
            param="template_hash",
        )
    return Candidate(
        said=said,
        base=base,
        config=loras.read_config(config, max_rank=policy.max_lora_rank),
        sizes=_sizes(base, store),
        source_sha256=hashlib.sha256(config).hexdigest(),
    )


def _check_name(tx: Transaction, said: AdapterImport) -> None:
    if tx.bases.called(said.name) is not None:
        raise NameTaken(f"{said.name!r} is the name of a base; give the adapter another.", param="name")


def _sizes(base: Base, store: Store) -> LlamaSizes:
    """Read the sizes of a base from its config.json."""
    file = next((file for file in base.files if file.name == "config.json"), None)
    if file is None:
        raise BaseUnusable(f"Base {base.name} has no config.json that says its sizes; import the base again.")
    raw = b"".join(store.chunks(f"sha256/{file.sha256}"))
    try:
        return LlamaSizes.model_validate_json(raw)
    except ValidationError as error:
        raise BaseUnusable(f"config.json of base {base.name} does not say its sizes; import the base again.") from error


@contextlib.asynccontextmanager
async def _received(
    weights: AsyncIterator[bytes], candidate: Candidate, *, store: Store, limits: UploadLimits
) -> AsyncIterator[Received]:
    """Store and inspect the weights at the same time. Nothing is kept of those refused, or if the block raises."""
    asked = Asked(config=candidate.config, base=candidate.sizes).model_dump_json().encode() + b"\n"
    async with Inspector.started(inspectors.ADAPTERS, limit_bytes=limits.bytes) as inspector:
        await inspector.feed(asked, patience_s=limits.validation_wait_s)
        try:
            received = await uploads.watched(weights, inspector, store=store, limits=limits)
        except ObjectTooLarge as error:
            said = f"{loras.WEIGHTS} is larger than the {limits.bytes} bytes that it can need here."
            raise broken("too_large", said, field=loras.WEIGHTS) from error
        if received is None:
            _require_good(await inspector.verdict())
            raise _unread()
        async with uploads.dropped_on_error(received.key, store):
            _require_good(await inspector.outcome(patience_s=limits.validation_wait_s))
            yield received


def _require_good(verdict: Verdict | None) -> None:
    if verdict is None:
        raise _unread()
    if verdict.fault is not None:
        raise BrokenAdapter.of(verdict.fault)


def _unread() -> InspectionFailed:
    return InspectionFailed("The weights could not be read in time; try again.", retry_after_s=5.0)


def _there(offer: _Offer, database: Database) -> Imported | None:
    """Answer with what is there, if anything is; else leave no trace."""
    try:
        with transaction(database) as tx:
            return _answered(tx, offer)
    except _New:
        return None


def _published(offer: _Offer, store: Store, database: Database) -> Imported:
    """Store the bundle, manifest last, then write its row."""
    candidate, files = offer.candidate, _files(offer)
    store.put(loras.CONFIG, candidate.kept_config)
    store.keep(offer.received, name=loras.WEIGHTS)
    versions = {"bluelora": __version__, "python": platform.python_version()}
    facts = candidate.facts(weights_sha256=offer.received.sha256, imported_at=wall(), versions=versions)
    text = bundles.manifest_text(files, facts)
    manifest = store.put(bundles.MANIFEST, text.encode())
    made = replace(_adapter(offer, files=(*files, manifest)), id=ids.new("ad"), sha256=manifest.sha256, manifest=text)
    with transaction(database) as tx:
        try:
            return _answered(tx, offer)
        except _New:
            version = tx.adapters.next_version(made.name, project_id=made.project_id)
        made = replace(made, version=version)
        tx.adapters.add(made)
        return _remembered(tx, offer, made, status=CREATED)


def _answered(tx: Transaction, offer: _Offer) -> Imported:
    """Answer with what is there.

    Raises:
        _New: Nothing is, and this transaction holds the key and the project's names.
        NameTaken, KeyReused, KeyInFlight: See `receive`.
    """
    project_id = offer.caller.project_id
    earlier = idempotency.replay(tx, project_id=project_id, key=offer.key, request_sha256=_request_sha256(offer))
    if earlier is not None:
        return Imported(adapter_id=json.loads(earlier.response)["id"], answer=earlier, replayed=True)
    tx.projects.lock_names(project_id)
    _check_name(tx, offer.candidate.said)
    there = tx.adapters.same(_adapter(offer, files=_files(offer)))
    if there is None:
        raise _New
    return _remembered(tx, offer, there, status=FOUND)


def _remembered(tx: Transaction, offer: _Offer, adapter: Adapter, *, status: int) -> Imported:
    answer = Stored(status=status, response=offer.show(adapter))
    idempotency.remember(tx, project_id=offer.caller.project_id, key=offer.key, answer=answer)
    return Imported(adapter_id=adapter.id, answer=answer)


def _files(offer: _Offer) -> tuple[AdapterFile, AdapterFile]:
    return offer.candidate.files(weights_sha256=offer.received.sha256, weights_bytes=offer.received.bytes)


def _adapter(offer: _Offer, *, files: tuple[AdapterFile, ...]) -> Adapter:
    """The row to be, without what a published one has: id, version and manifest."""
    candidate, caller = offer.candidate, offer.caller
    return Adapter(
        id="",
        project_id=caller.project_id,
        created_by=caller.key_id,
        kind="imported",
        name=candidate.said.name,
        version=None,
        base_id=candidate.base.id,
        job_id=None,
        step=None,
        attempt=None,
        sha256="",
        template_hash=candidate.base.template_hash,
        system_prompt=candidate.said.system_prompt,
        r=candidate.config.r,
        files=files,
        manifest="",
        metadata=dict(candidate.said.metadata),
        aliases=(),
        created_at=wall(),
    )


def _request_sha256(offer: _Offer) -> str:
    candidate = offer.candidate
    said = {
        "route": "POST /adapters",
        "said": candidate.said.model_dump(mode="json") | {"base": candidate.base.id},
        "config": candidate.source_sha256,
        "weights": offer.received.sha256,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
