"""Bases: register what an import made, find one, bring its files here."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from core.db.clocks import wall
from core.db.transactions import Database, Transaction, snapshot, transaction
from core.domain import ids
from core.domain.adapters import AdapterFile, NameTaken
from core.domain.bases import Base, BaseConflict, BaseNotFound, ImportedBase, check_name
from core.domain.pages import Filters, InvalidFilter, Page, cursor
from core.storage import bundles
from core.storage.objects import Store

IMPORT_RECORD: Final = "import.json"


def register(
    *,
    name: str,
    files: Sequence[AdapterFile],
    fingerprint: str,
    template_hash: str,
    context_length: int,
    parameters: int,
    database: Database,
) -> Base:
    """Make a base known, whose files are in the object store; the same base again is the row that is there.

    Args:
        name: As jobs will name it.
        files: All of its files, by hash.
        fingerprint: sha256 of the sorted file hashes.
        template_hash: Of the chat format.
        context_length: In tokens.
        parameters: Their number, embeddings included.
        database: Where the row goes.

    Raises:
        InvalidBaseName: The name can't be used in a reference.
        BaseConflict: The name belongs to a base with other bytes.
        NameTaken: An adapter is called so.
    """
    check_name(name)
    base = Base(
        id=ids.new("base"),
        name=name,
        fingerprint=fingerprint,
        template_hash=template_hash,
        context_length=context_length,
        parameters=parameters,
        bytes=sum(file.bytes for file in files),
        files=tuple(files),
        metadata={},
        created_at=wall(),
    )
    with transaction(database) as tx:
        _check_free(tx, name)
        tx.bases.add(base)
        found = tx.bases.get(name)
    if found is None or found.fingerprint != fingerprint:
        raise BaseConflict(
            f"There is a base {name!r} with other bytes; give this one another name, as bases never change.",
            param="name",
        )
    return found


def register_folder(
    folder: Path,
    *,
    imported: Mapping[str, object],
    name: str,
    store: Store,
    database: Database,
    stored: Callable[[int, int], None] | None = None,
) -> Base:
    """Store a converted checkpoint's files, then make the base known; cut off in between, it is simply done again.

    Args:
        folder: In Llama layout, plain files only.
        imported: What the converter said of it (core.domain.bases.ImportedBase).
        name: As jobs will name it.
        store: Where the bytes go.
        database: Where the row goes.
        stored: Told of the bytes that are in the store, and of all.

    Raises:
        InvalidBaseName, BaseConflict, NameTaken: See `register`.
        StorageFull, Unavailable: The bytes could not be stored.
    """
    check_name(name)
    facts = ImportedBase.model_validate(dict(imported))
    return register(
        name=name,
        files=bundles.upload(folder, store, stored=stored),
        fingerprint=facts.fingerprint,
        template_hash=facts.template_hash,
        context_length=facts.context_length,
        parameters=facts.parameters,
        database=database,
    )


def fetch_record(name: str, folder: Path, *, store: Store, database: Database) -> Path | None:
    """Bring the import.json of the base of this name into a new folder; None where there is no base, or no such file.

    Raises:
        NameTaken: An adapter is called so.
        BrokenBundle, Unavailable: As in `fetch`.
    """
    with snapshot(database) as tx:
        base = tx.bases.get(name)
        if base is None:
            _check_free(tx, name)
    files = [file for file in base.files if file.name == IMPORT_RECORD] if base else []
    return bundles.fetch(files, folder, store) if files else None


def fetch(base: Base, *, store: Store, cache_dir: Path) -> Path:
    """Bring a base's files to this machine, verified; a whole copy that is there is kept.

    Args:
        base: Which.
        store: Where its bytes are.
        cache_dir: Gets a folder named by the fingerprint.

    Raises:
        BrokenBundle: Stored bytes are missing or changed.
        Unavailable: The store does not answer.
    """
    return bundles.fetch(base.files, cache_dir / base.fingerprint, store)


def get(id_or_name: str, *, database: Database) -> Base:
    """Find a base by its id or its name.

    Raises:
        BaseNotFound: None of that id or name has been imported.
    """
    with snapshot(database) as tx:
        return choose(tx, id_or_name, default=None)


def default(name: str | None, *, database: Database) -> Base:
    """Find the base that is meant when nobody names one.

    Args:
        name: The deployment's choice; None means the only base there is.
        database: Where bases are.

    Raises:
        BaseNotFound: None of that name; or none or several imported, and no choice made.
    """
    with snapshot(database) as tx:
        return choose(tx, None, default=name)


def listing(filters: Filters, *, database: Database) -> Page[Base]:
    """List bases, newest first; every project sees all.

    Raises:
        UnknownCursor, InvalidFilter: Of what was asked.
    """
    after = cursor(filters, "base")
    if filters.status is not None:
        raise InvalidFilter("Bases have no status.", param="status")
    with snapshot(database) as tx:
        return tx.bases.page(filters, after=after)


def everything(*, database: Database) -> tuple[Base, ...]:
    """Give every base, the oldest first."""
    with snapshot(database) as tx:
        return tx.bases.first(None)


def _check_free(tx: Transaction, name: str) -> None:
    if tx.adapters.named(name.lower()) or tx.jobs.named(name.lower()):
        raise NameTaken(f"An adapter is called {name!r}; give the base another name.", param="name")


def choose(tx: Transaction, named: str | None, *, default: str | None, param: str = "base_model") -> Base:
    """Find the named base, else the default one, else the only one.

    Raises:
        BaseNotFound: With the names there are.
    """
    wanted = named or default
    if wanted is not None:
        found = tx.bases.get(wanted) if "\0" not in wanted else None
        if found is not None:
            return found
    some = tx.bases.first(20)
    if wanted is None and len(some) == 1:
        return some[0]
    names = ", ".join(base.name for base in some) or "none yet; `bluelora import` makes one"
    if wanted is None:
        raise BaseNotFound(f"Name a base: {names}.", param=param)
    raise BaseNotFound(f"There is no base {wanted[:100]!r}; there are: {names}.", param=param)
