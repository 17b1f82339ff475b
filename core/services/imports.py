"""Adapters that were trained elsewhere: judged while they arrive, kept in our words, registered beside our own."""

import asyncio
import contextlib
import hashlib
import json
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from core import __version__
from core.db.clocks import wall
from core.db.transactions import Database, Transaction, snapshot, transaction
from core.domain import ids, loras, loraweights
from core.domain.adapters import Adapter, AdapterFile, BrokenAdapter, NameTaken, broken
from core.domain.bases import Base, BaseUnusable
from core.domain.generation import TemplateMismatch
from core.domain.imports import AdapterImport
from core.domain.keys import Caller
from core.domain.linears import LlamaSizes, linears
from core.domain.loras import LoraConfig
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
class _Fit:
    """What the files must fit, and what the checked config says."""

    said: AdapterImport
    base: Base
    sizes: LlamaSizes
    config: LoraConfig
    source_config: AdapterFile

    @property
    def largest_bytes(self) -> int:
        """What the weights file can have at most."""
        return loraweights.largest_file(self.config, linears(self.sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Checked and stored weights that ask for a row."""

    fit: _Fit
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
    fit = await asyncio.to_thread(_fit, said, config, store=store, database=database, policy=policy)
    limit = UploadLimits(bytes=min(fit.largest_bytes, limits.bytes), validation_wait_s=limits.validation_wait_s)
    async with _received(weights, fit, store=store, limits=limit) as received:
        offer = _Offer(fit=fit, received=received, caller=caller, key=key, show=show)
        there = await asyncio.to_thread(_there, offer, database)
    if there is not None:
        await asyncio.to_thread(store.delete, received.key)
        return there
    # A caller who hangs up here does not stop the thread, so the bytes stay: either a row holds them, or a sweep
    # takes them in a day.
    return await asyncio.to_thread(_published, offer, store, database)


def _fit(said: AdapterImport, config: bytes, *, store: Store, database: Database, policy: Policy) -> _Fit:
    with snapshot(database) as tx:
        base = bases.choose(tx, said.base, default=policy.default_base, param="base")
        _check_name(tx, said)
    if said.template_hash not in {None, base.template_hash}:
        raise TemplateMismatch(
            f"The adapter was trained with the chat format {said.template_hash}, but {base.name} has "
            f"{base.template_hash}; import it to the base that it was trained on.",
            param="template_hash",
        )
    sizes = _sizes(base, store)
    checked = loras.read_config(config, max_rank=policy.max_lora_rank)
    source = AdapterFile(name=loras.CONFIG, sha256=hashlib.sha256(config).hexdigest(), bytes=len(config))
    return _Fit(said=said, base=base, sizes=sizes, config=checked, source_config=source)


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
    weights: AsyncIterator[bytes], fit: _Fit, *, store: Store, limits: UploadLimits
) -> AsyncIterator[Received]:
    """Store and inspect the weights at the same time. Nothing is kept of those refused, or if the block raises."""
    asked = Asked(config=fit.config, base=fit.sizes).model_dump_json().encode() + b"\n"
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
    like = _adapter(offer, files=_contents(offer))
    try:
        with transaction(database) as tx:
            return _answered(tx, offer, like)
    except _New:
        return None


def _published(offer: _Offer, store: Store, database: Database) -> Imported:
    """Store the bundle, manifest last, then write its row."""
    config, weights = _contents(offer)
    store.put(config.name, loras.canonical(offer.fit.config, base_name=offer.fit.base.name))
    store.keep(offer.received, name=weights.name)
    text = bundles.manifest_text((config, weights), _facts(offer))
    manifest = store.put(bundles.MANIFEST, text.encode())
    made = replace(
        _adapter(offer, files=(config, weights, manifest)), sha256=manifest.sha256, manifest=text, id=ids.new("ad")
    )
    with transaction(database) as tx:
        try:
            return _answered(tx, offer, made)
        except _New:
            version = tx.adapters.next_version(made.name, project_id=made.project_id)
        made = replace(made, version=version)
        tx.adapters.add(made)
        return _remembered(tx, offer, made, status=CREATED)


def _answered(tx: Transaction, offer: _Offer, like: Adapter) -> Imported:
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
    _check_name(tx, offer.fit.said)
    there = tx.adapters.same(like)
    if there is None:
        raise _New
    return _remembered(tx, offer, there, status=FOUND)


def _remembered(tx: Transaction, offer: _Offer, adapter: Adapter, *, status: int) -> Imported:
    answer = Stored(status=status, response=offer.show(adapter))
    idempotency.remember(tx, project_id=offer.caller.project_id, key=offer.key, answer=answer)
    return Imported(adapter_id=adapter.id, answer=answer)


def _contents(offer: _Offer) -> tuple[AdapterFile, AdapterFile]:
    """The two files that are kept: the config in our words, the weights as they came."""
    config = loras.canonical(offer.fit.config, base_name=offer.fit.base.name)
    received = offer.received
    return (
        AdapterFile(name=loras.CONFIG, sha256=hashlib.sha256(config).hexdigest(), bytes=len(config)),
        AdapterFile(name=loras.WEIGHTS, sha256=received.sha256, bytes=received.bytes),
    )


def _adapter(offer: _Offer, *, files: tuple[AdapterFile, ...]) -> Adapter:
    fit, caller = offer.fit, offer.caller
    return Adapter(
        id="",
        project_id=caller.project_id,
        created_by=caller.key_id,
        kind="imported",
        name=fit.said.name,
        version=None,
        base_id=fit.base.id,
        job_id=None,
        step=None,
        attempt=None,
        sha256="",
        template_hash=fit.base.template_hash,
        system_prompt=fit.said.system_prompt,
        r=fit.config.r,
        files=files,
        manifest="",
        metadata=dict(fit.said.metadata),
        aliases=(),
        created_at=wall(),
    )


def _facts(offer: _Offer) -> Mapping[str, Any]:
    """What is known of the adapter; what only its trainer knows is null."""
    fit = offer.fit
    return {
        "kind": "imported",
        "base": fit.base.name,
        "base_fingerprint": fit.base.fingerprint,
        "template_hash": fit.base.template_hash,
        "system_prompt": fit.said.system_prompt,
        "r": fit.config.r,
        "lora_alpha": fit.config.lora_alpha,
        "target_modules": sorted(fit.config.target_modules),
        "use_rslora": fit.config.use_rslora,
        "source": {
            loras.CONFIG: fit.source_config.sha256,
            loras.WEIGHTS: offer.received.sha256,
            "peft_version": fit.config.peft_version,
        },
        "imported_at": wall(),
        "versions": {"bluelora": __version__, "python": platform.python_version()},
        "job": None,
        "attempt": None,
        "step": None,
        "spec": None,
        "dataset_sha256": None,
        "metrics": None,
    }


def _request_sha256(offer: _Offer) -> str:
    said = {
        "route": "POST /adapters",
        "said": offer.fit.said.model_dump(mode="json") | {"base": offer.fit.base.id},
        "config": offer.fit.source_config.sha256,
        "weights": offer.received.sha256,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
