"""Bytes and folders that no row points to any more: of deleted adapters and of dropped checkpoints.

Files are shared by hash, and whoever publishes one stores it before its row is there. So a file goes in two steps: it is
set aside when it is old and unreferenced, and removed an hour later unless a row points to it by then. Any number
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
from core.errors import Unavailable
from core.storage import bundles
from core.storage.bundles import BrokenBundle
from core.storage.objects import Store

UNREFERENCED: Final = timedelta(hours=20)
"""A publisher trusts an object that it finds for 12 h (core/storage/objects.py) and has the rest of these for its row.
With hourly rounds and the hour aside, bytes are gone 24 h after their adapter."""
ASIDE: Final = timedelta(hours=1)
STALE: Final = timedelta(hours=24)
_ANY_AGE: Final = timedelta(days=-1)
"""Clocks differ: an object may seem to be of tomorrow."""
_FILE: Final = re.compile(r"sha256/(?P<sha256>[0-9a-f]{64})")
_ASIDE: Final = re.compile(r"aside/(?P<at>[0-9]{10,12})-(?P<sha256>[0-9a-f]{64})")
_BATCH: Final = 500
_MOST_FAILURES: Final = 3
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
    put_back = removed = set_aside = failures = 0
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
        if sha256 in needed or not store.is_older(key, unreferenced):
            continue
        try:
            set_aside += store.move(key, f"aside/{int(time.time())}-{sha256}")
        except Unavailable:
            # One that can't be moved (S3 copies 5 GB at most) must not keep the others from going.
            failures += 1
            if failures == _MOST_FAILURES:
                raise
    return Collected(set_aside=set_aside, removed=removed, put_back=put_back)


def sweep_folders(adapter_dir: Path, *, database: Database) -> tuple[str, ...]:
    """Remove what was laid out for engines of adapters that are deleted now; gives the adapters' ids.

    Raises:
        Unavailable: The database does not answer.
    """
    if not adapter_dir.is_dir():
        return ()
    folders = {path: found["adapter"] for path in adapter_dir.iterdir() if (found := _FOLDER.fullmatch(path.name))}
    named, deleted = sorted(set(folders.values())), set[str]()
    with snapshot(database) as tx:
        for start in range(0, len(named), _BATCH):
            deleted |= tx.adapters.deleted(named[start : start + _BATCH])
    for path in [path for path, adapter in folders.items() if adapter in deleted] + list(_stale(adapter_dir)):
        shutil.rmtree(path, ignore_errors=True)
    return tuple(sorted(deleted))


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
