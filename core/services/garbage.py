"""Bytes and folders that no row points to any more: of deleted adapters and of dropped checkpoints.

Files are shared by hash, and whoever publishes one stores it before its row is there. So a file goes in two steps: it is
set aside when it is a day old and unreferenced, and removed an hour later unless a row points to it by then. Any number
of processes may do this at once, and may be stopped anywhere.
"""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from core.db.transactions import Database, snapshot
from core.storage import bundles
from core.storage.bundles import BrokenBundle
from core.storage.objects import Store

UNREFERENCED: Final = timedelta(hours=24)
"""Twice what a publisher may trust an object for that it finds (core/storage/objects.py): older ones it puts again."""
ASIDE: Final = timedelta(hours=1)
STALE: Final = timedelta(hours=24)
_ANY_AGE: Final = timedelta(days=-1)
"""Clocks differ: an object may seem to be of tomorrow."""
_FILE: Final = re.compile(r"sha256/(?P<sha256>[0-9a-f]{64})")
_ASIDE: Final = re.compile(r"aside/(?P<at>[0-9]{10,12})-(?P<sha256>[0-9a-f]{64})")
_FOLDER: Final = re.compile(r"(?P<adapter>ad_[0-9a-z]{26})-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How many files one round set aside, removed, and put back since a row points to them again."""

    set_aside: int = 0
    removed: int = 0
    put_back: int = 0


def collect(
    *, store: Store, database: Database, unreferenced: timedelta = UNREFERENCED, aside: timedelta = ASIDE
) -> Collected:
    """Do one round over the store's files.

    Raises:
        Unavailable: The database or the store does not answer; what is left undone comes with the next round.
    """
    # Listed before the rows are read: what a row points to that was written in between is too young to be here.
    old = [key for key in store.older_than(unreferenced, prefix="sha256") if _FILE.fullmatch(key)]
    laid = [found for key in store.older_than(_ANY_AGE, prefix="aside") if (found := _ASIDE.fullmatch(key))]
    if not old and not laid:
        return Collected()
    needed = _needed(store, database)
    put_back = removed = set_aside = 0
    for found in laid:
        if found["sha256"] in needed and not store.is_older(f"sha256/{found['sha256']}", _ANY_AGE):
            put_back += store.move(found[0], f"sha256/{found['sha256']}")
        elif time.time() - int(found["at"]) >= aside.total_seconds():
            store.delete(found[0])
            removed += 1
    for key in old:
        sha256 = key.removeprefix("sha256/")
        # Looked at again, as it may have been put anew since it was listed. If that happens only now, the hour that
        # it lies aside is there for it.
        if sha256 not in needed and store.is_older(key, unreferenced):
            set_aside += store.move(key, f"aside/{int(time.time())}-{sha256}")
    return Collected(set_aside=set_aside, removed=removed, put_back=put_back)


def sweep_folders(adapter_dir: Path, *, database: Database) -> int:
    """Remove what was laid out for engines of adapters that are deleted now; gives how many folders.

    Raises:
        Unavailable: The database does not answer.
    """
    if not adapter_dir.is_dir():
        return 0
    folders = {path: found["adapter"] for path in adapter_dir.iterdir() if (found := _FOLDER.fullmatch(path.name))}
    with snapshot(database) as tx:
        living = tx.adapters.living(sorted(set(folders.values())))
    gone = [path for path, adapter in folders.items() if adapter not in living] + list(_stale(adapter_dir))
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return len(gone)


def _needed(store: Store, database: Database) -> set[str]:
    """The hashes of all files that a row points to, by itself or by a checkpoint's manifest."""
    with snapshot(database) as tx:
        needed = tx.adapters.hashes() | tx.bases.hashes()
        manifests = tx.checkpoints.manifests()
    for manifest in manifests:
        try:
            needed |= {file.sha256 for file in bundles.contents(manifest, store)}
        except BrokenBundle:
            # Nobody can resume from it; what it listed is unknown.
            needed.add(manifest)
    return needed


def _stale(folder: Path) -> Iterator[Path]:
    """What a killed process was laying out."""
    before = time.time() - STALE.total_seconds()
    for path in folder.glob(".ad_*"):
        if path.stat().st_mtime < before:
            yield path
