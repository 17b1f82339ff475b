"""Bundles: flat folders of files with a manifest, published by rename, known by the manifest's hash.

An adapter and a checkpoint are bundles. The manifest names each file's size and sha256, so one hash vouches for
all of them. Knows no tensors and no rows.
"""

import errno
import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from core.domain.adapters import AdapterFile
from core.errors import Unavailable
from core.storage import files as local
from core.storage.objects import ObjectCorrupt, ObjectMissing, Store

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 4 * 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


class BrokenBundle(Unavailable):
    """A bundle's files are not those its manifest names, or the manifest is not the one asked for."""

    code = "broken_bundle"


class BundleExists(Unavailable):
    """Another bundle lies where this one was to go."""

    code = "bundle_exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A folder whose manifest is written and synced; `bytes` counts all files, the manifest too."""

    manifest_sha256: str
    bytes: int


def seal(folder: Path, facts: Mapping[str, object]) -> Sealed:
    """Write the manifest of all files in a folder, and bring everything to the disk.

    Args:
        folder: Flat: files only, no links.
        facts: What else the manifest shall say; must be JSON, and may not hold `files`.

    Raises:
        BrokenBundle: The folder holds something that can't be in a bundle, or a manifest already.
        ValueError: `facts` holds `files` or is no JSON.
    """
    entries = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.name == MANIFEST:
            raise BrokenBundle(f"A bundle holds plain files and no earlier manifest, but here is {path.name!r}.")
        entries.append(AdapterFile(name=path.name, sha256=local.sha256_of(path), bytes=path.stat().st_size))
        local.sync_file(path)
    text = manifest_text(entries, facts)
    with local.appearing(folder / MANIFEST) as file:
        file.write(text.encode())
    total = sum(path.stat().st_size for path in folder.iterdir())
    return Sealed(manifest_sha256=local.sha256_of(folder / MANIFEST), bytes=total)


def manifest_text(files: Sequence[AdapterFile], facts: Mapping[str, object]) -> str:
    """Write what a manifest says of its files, beside `facts`; raises as `seal` does."""
    if "files" in facts:
        raise ValueError("a manifest's `files` are not among its facts")
    entries = {checked_name(file.name): {"sha256": file.sha256, "bytes": file.bytes} for file in files}
    return json.dumps({"files": entries, **facts}, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)


def publish(source: Path, target: Path) -> Path:
    """Rename a sealed folder to its place on the same file system; it appears whole or not at all.

    Raises:
        BundleExists: The target is there already.
    """
    local.make_folder(target.parent)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BundleExists(f"A bundle named {target.name!r} is there already.") from error
        raise
    local.sync_folder(target.parent)
    return target


def verify(folder: Path, manifest_sha256: str) -> tuple[AdapterFile, ...]:
    """Hold a bundle against its manifest, and the manifest against its hash; returns all files, manifest last.

    Raises:
        BrokenBundle: Anything differs; the sentence names the file.
    """
    manifest = folder / MANIFEST
    _check_file(folder, AdapterFile(name=MANIFEST, sha256=manifest_sha256, bytes=_size(manifest)))
    listed = _listed(manifest.read_bytes())
    for file in listed:
        _check_file(folder, file)
    return (*listed, AdapterFile(name=MANIFEST, sha256=manifest_sha256, bytes=_size(manifest)))


def upload(folder: Path, store: Store, *, stored: Callable[[int, int], None] | None = None) -> tuple[AdapterFile, ...]:
    """Store every file of a folder under its hash, the manifest (if there is one) last.

    `stored` is told, after each file, of the bytes that are in the store and of all.

    Raises:
        BrokenBundle: The folder holds something other than plain files.
        StorageFull: No room.
        Unavailable: The store does not answer.
    """
    paths = sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name))
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise BrokenBundle(f"A bundle holds plain files only, but here is {path.name!r}.")
        checked_name(path.name)
    total = sum(path.stat().st_size for path in paths)
    files: list[AdapterFile] = []
    for path in paths:
        files.append(store.put_file(path))
        if stored is not None:
            stored(sum(file.bytes for file in files), total)
    return tuple(files)


def fetch(files: Sequence[AdapterFile], folder: Path, store: Store) -> Path:
    """Bring files to a local folder, which appears complete and verified; one that is there and whole is kept.

    Any number of processes may fetch the same folder at once.

    Raises:
        BrokenBundle: Stored bytes are missing or changed, or a name is no plain file name.
        Unavailable: The store does not answer.
    """
    for file in files:
        checked_name(file.name)
    if _is_whole(folder, files):
        return folder
    local.make_folder(folder.parent)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    aside.mkdir()
    try:
        for file in files:
            _fetch_one(file, aside, store)
        local.sync_folder(aside)
        _take_place(aside, folder, files)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def fetch_bundle(manifest_sha256: str, folder: Path, store: Store) -> Path:
    """Bring a whole bundle to a local folder by the hash of its manifest; raises as `fetch` does."""
    return fetch(contents(manifest_sha256, store), folder, store)


def contents(manifest_sha256: str, store: Store) -> tuple[AdapterFile, ...]:
    """Name all files of a stored bundle, its manifest last.

    Raises:
        BrokenBundle: The manifest is missing from the store, or does not read as one.
        Unavailable: The store does not answer.
    """
    try:
        raw = b"".join(store.chunks(_key(manifest_sha256)))
    except ObjectMissing as error:
        raise BrokenBundle("A bundle's manifest is missing from the store.") from error
    return (*_listed(raw), AdapterFile(name=MANIFEST, sha256=manifest_sha256, bytes=len(raw)))


def checked_name(name: str) -> str:
    """Return a name that is a plain file name everywhere: no slash, no leading dot.

    Raises:
        BrokenBundle: It is not.
    """
    if not _NAME.fullmatch(name):
        raise BrokenBundle(f"A bundle names a file {name[:80]!r}, which is no plain file name.")
    return name


def _fetch_one(file: AdapterFile, folder: Path, store: Store) -> None:
    try:
        store.fetch(_key(file.sha256), folder / file.name, sha256=file.sha256)
    except (ObjectMissing, ObjectCorrupt) as error:
        raise BrokenBundle(f"{file.name} is missing from the store, or its bytes have changed.") from error


def _take_place(aside: Path, folder: Path, files: Sequence[AdapterFile]) -> None:
    """Rename into place; whoever came first with the same bytes wins, a broken folder is moved out of the way."""
    for _ in range(8):
        try:
            publish(aside, folder)
        except BundleExists:
            if _is_whole(folder, files):
                return
            broken = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.broken")
            try:
                folder.rename(broken)
            except FileNotFoundError:
                continue
            shutil.rmtree(broken, ignore_errors=True)
        else:
            return
    raise BrokenBundle(f"{folder.name} keeps being replaced by broken files.")


def _is_whole(folder: Path, files: Sequence[AdapterFile]) -> bool:
    if not folder.is_dir():
        return False
    try:
        for file in files:
            _check_file(folder, file)
    except BrokenBundle:
        return False
    return {path.name for path in folder.iterdir()} == {file.name for file in files}


def _check_file(folder: Path, file: AdapterFile) -> None:
    path = folder / file.name
    if path.is_symlink() or _size(path) != file.bytes or _hash(path) != file.sha256:
        raise BrokenBundle(f"{file.name} is not the file that its manifest names.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BrokenBundle(f"{path.name} is missing.") from error


def _hash(path: Path) -> str:
    """Hash a file, or remember the hash: a base of 15 GB would cost ten seconds an attempt."""
    found = path.stat()
    return _hash_of_version(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hash_of_version(path: Path, _inode: int, _size: int, _modified: int, _changed: int) -> str:
    return local.sha256_of(path)


def _key(sha256: str) -> str:
    if not _HEX.fullmatch(sha256):
        raise BrokenBundle("A bundle's hash is not 64 hexadecimal digits.")
    return f"sha256/{sha256}"


@dataclass(frozen=True, slots=True)
class _Entry:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Manifest:
    files: dict[str, _Entry]


_MANIFEST: Final = TypeAdapter(_Manifest)


def _listed(raw: bytes) -> tuple[AdapterFile, ...]:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BrokenBundle(f"A manifest of {len(raw)} bytes is none of ours.")
    try:
        found = _MANIFEST.validate_json(raw)
    except ValidationError as error:
        raise BrokenBundle("The manifest does not read as one.") from error
    listed = tuple(
        AdapterFile(name=checked_name(name), sha256=entry.sha256, bytes=entry.bytes)
        for name, entry in sorted(found.files.items())
    )
    for file in listed:
        _key(file.sha256)
        if file.name == MANIFEST:
            raise BrokenBundle("A manifest may not list itself.")
    return listed
