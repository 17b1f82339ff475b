"""The registry: find what a reference means, move aliases, delete, read files."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final, assert_never

from core.db.transactions import Database, Transaction, snapshot, transaction
from core.domain import adapters
from core.domain.adapters import (
    Adapter,
    AdapterFile,
    AdapterInUse,
    AdapterNotFound,
    ById,
    ByJob,
    ByName,
    FileNotFound,
    InvalidReference,
    Reference,
    check_alias,
    parse_reference,
)
from core.domain.keys import Caller
from core.domain.pages import Filters, InvalidFilter, Page, cursor
from core.storage.objects import Store

KINDS: Final = ("final", "checkpoint", "imported")


@dataclass(frozen=True, slots=True)
class Opened:
    """One file of an adapter: what it is, and its bytes piece by piece."""

    file: AdapterFile
    chunks: Iterator[bytes]


def get(reference: str, *, caller: Caller, database: Database) -> Adapter:
    """Find the adapter that a reference means now.

    Raises:
        InvalidReference: The text is no reference.
        AdapterNotFound: The project has none that it could mean, or it was deleted.
    """
    parsed = parse_reference(reference)
    with snapshot(database) as tx:
        return find(tx, parsed, reference, project_id=caller.project_id)


def listing(filters: Filters, *, caller: Caller, database: Database) -> Page[Adapter]:
    """List the project's adapters, newest first; `status` may be a kind.

    Raises:
        UnknownCursor, InvalidFilter: Of what was asked.
    """
    after = cursor(filters, "ad")
    if filters.status is not None and filters.status not in KINDS:
        raise InvalidFilter(f"An adapter's kind is one of {', '.join(KINDS)}.", param="status")
    with snapshot(database) as tx:
        return tx.adapters.page(filters, project_id=caller.project_id, after=after)


def delete(reference: str, *, caller: Caller, database: Database) -> Adapter:
    """Turn an adapter into its tombstone; its version number is never used again.

    Raises:
        InvalidReference: See `get`; or the newest of something is meant: asked twice, that would be two.
        AdapterNotFound: See `get`.
        AdapterInUse: An alias points at it.
    """
    parsed = parse_reference(reference)
    if parsed in {ByName(name=reference), ByJob(job_id=reference.partition("@")[0])}:
        raise InvalidReference(
            f"{reference!r} means the newest; delete one by its ad_… id or as name@N.", param="adapter"
        )
    with transaction(database) as tx:
        adapter = find(tx, parsed, reference, project_id=caller.project_id)
        if not tx.adapters.hold(adapter.id, project_id=caller.project_id):
            raise _unknown(reference)
        aliases = find(tx, ById(id=adapter.id), reference, project_id=caller.project_id).aliases
        if aliases:
            shown = ", ".join(f"{adapter.name}@{alias}" for alias in aliases)
            raise AdapterInUse(f"{shown} points at this adapter; move or delete the alias first.")
        tx.adapters.bury(adapter.id)
        details = {"reference": adapter.reference, "sha256": adapter.sha256}
        tx.audit.add("adapter.delete", adapter.id, project_id=caller.project_id, key_id=caller.key_id, details=details)
    return adapter


def put_alias(name: str, alias: str, *, reference: str, caller: Caller, database: Database) -> Adapter:
    """Make `name@alias` mean one version of `name` from now on; readers see the old or the new one, never neither.

    Args:
        name: Whose alias it is.
        alias: What to call the version.
        reference: The adapter, in any form that `get` takes.
        caller: Who moves it.
        database: Where it is kept.

    Raises:
        InvalidReference: The alias can't be one, or the reference is not to a version of `name`.
        AdapterNotFound: See `get`.
    """
    check_alias(alias)
    parsed = parse_reference(reference)
    with transaction(database) as tx:
        adapter = find(tx, parsed, reference, project_id=caller.project_id)
        if adapter.name != name or adapter.version is None:
            raise InvalidReference(f"{reference[:100]!r} is no version of {name[:64]!r}.", param="adapter")
        if not tx.adapters.hold(adapter.id, project_id=caller.project_id):
            raise _unknown(reference)
        tx.adapters.point(name, alias, project_id=caller.project_id, adapter_id=adapter.id)
        tx.audit.add(
            "alias.move",
            f"{name}@{alias}",
            project_id=caller.project_id,
            key_id=caller.key_id,
            details={"adapter": adapter.id, "reference": adapter.reference},
        )
        return find(tx, ById(id=adapter.id), reference, project_id=caller.project_id)


def delete_alias(name: str, alias: str, *, caller: Caller, database: Database) -> None:
    """Remove an alias; the adapter stays.

    Raises:
        AdapterNotFound: There is no such alias.
    """
    check_alias(alias)
    with transaction(database) as tx:
        known = adapters.NAME.fullmatch(name) is not None
        if not known or not tx.adapters.unpoint(name, alias, project_id=caller.project_id):
            raise _unknown(f"{name}@{alias}")
        target = f"{name}@{alias}"
        tx.audit.add("alias.delete", target, project_id=caller.project_id, key_id=caller.key_id)


def file(reference: str, name: str, *, caller: Caller, store: Store, database: Database) -> Opened:
    """Open one file of an adapter.

    Raises:
        InvalidReference, AdapterNotFound: See `get`.
        FileNotFound: The adapter has no such file.
        ObjectMissing, StoreUnavailable: Its bytes are lost, or the store does not answer.
    """
    adapter = get(reference, caller=caller, database=database)
    for known in adapter.files:
        if known.name == name:
            chunks = store.chunks(f"sha256/{known.sha256}")
            # Read before anything is answered: bytes that are gone must be an error, not a torn file.
            return Opened(file=known, chunks=chain([next(chunks, b"")], chunks))
    names = ", ".join(known.name for known in adapter.files)
    raise FileNotFound(f"This adapter has no file {name[:100]!r}; it has {names}.")


def find(tx: Transaction, parsed: Reference, reference: str, *, project_id: str) -> Adapter:
    """Find an adapter inside a transaction.

    Raises:
        AdapterNotFound: With what `reference` says.
    """
    match parsed:
        case ById(id=adapter_id):
            found = tx.adapters.get(adapter_id, project_id=project_id)
        case ByName(name=name, version=int(version)):
            found = tx.adapters.version(name, version, project_id=project_id)
        case ByName(name=name, alias=str(alias)):
            found = tx.adapters.aliased(name, alias, project_id=project_id)
        case ByName(name=name):
            found = tx.adapters.newest(name, project_id=project_id)
        case ByJob(job_id=job_id, step=step):
            found = tx.adapters.of_job(job_id, step=step, project_id=project_id)
        case _:
            assert_never(parsed)
    if found is None:
        raise _unknown(reference)
    return found


def _unknown(reference: str) -> AdapterNotFound:
    return AdapterNotFound(f"There is no adapter {reference[:100]!r}.", param="adapter")
