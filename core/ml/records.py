"""What an import leaves behind: import.json in the folder, and the value that callers register.

The fingerprint is over the files that define the model, never over import.json, which may name versions.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from core.domain.adapters import AdapterFile
from core.domain.bases import BaseConflict
from core.ml.sources import chunks

FILE: Final = "import.json"
CONVERTER: Final = 1
"""Rises when the same source would give other bytes."""
LIBRARIES: Final = ("torch", "safetensors", "tokenizers", "sentencepiece")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A hub's repository; `content` is a hash over the names, sizes and hashes of the files that were read."""

    hub: str
    id: str
    revision: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The content of import.json. Sizes in bytes; `rows` of the embedding; `max_ulp` of the folded table.

    `sources` are the files read, `files` the files written except import.json itself; `origin` is None for a folder.
    """

    converter: int
    already_llama: bool
    sources: tuple[AdapterFile, ...]
    files: tuple[AdapterFile, ...]
    fingerprint: str
    template_hash: str
    context_length: int
    parameters: int
    rows: int
    dtype: str
    max_ulp: float | None
    segment_encoder: str
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A base that lies complete in `path`, or is registered (then nothing is there); `reused` says that it was."""

    name: str
    path: Path
    record: Record
    files: tuple[AdapterFile, ...]
    reused: bool

    def members(self) -> dict[str, Any]:
        """Give what `bluelora import --json` prints."""
        record = self.record
        return {
            "name": self.name,
            "path": str(self.path),
            "fingerprint": record.fingerprint,
            "template_hash": record.template_hash,
            "context_length": record.context_length,
            "parameters": record.parameters,
            "bytes": sum(file.bytes for file in self.files),
            "files": [asdict(file) for file in self.files],
            "already_llama": record.already_llama,
            "dtype": record.dtype,
            "rows": record.rows,
            "max_ulp": record.max_ulp,
            "checks": list(record.checks),
            "notes": list(record.notes),
            "reused": self.reused,
        }


def fingerprint(files: Iterable[AdapterFile]) -> str:
    """Name a base by its bytes: sha256 over sorted lines of name and sha256."""
    lines = sorted(f"{file.name} {file.sha256}\n" for file in files if file.name != FILE)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Name the libraries that an import depends on."""
    return {library: version(library) for library in LIBRARIES}


def made_from(sources: Iterable[AdapterFile]) -> dict[str, Any]:
    """Name the sources and the code of an import; the same gives the same bytes."""
    return {"converter": CONVERTER, "versions": versions(), "sources": [asdict(file) for file in sources]}


def hashed(path: Path) -> AdapterFile:
    """Hash a file of ours."""
    digest = hashlib.sha256()
    for chunk in chunks(path, path.name):
        digest.update(chunk)
    return AdapterFile(name=path.name, sha256=digest.hexdigest(), bytes=path.stat().st_size)


def write(folder: Path, record: Record) -> AdapterFile:
    """Write import.json and return its name, hash and size."""
    path = folder / FILE
    path.write_text(json.dumps(asdict(record), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return hashed(path)


def read(folder: Path) -> Record | None:
    """Read import.json; None where the folder has none that this version wrote."""
    try:
        return TypeAdapter(Record).validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def registered(
    folder: Path, *, name: str, sources: tuple[AdapterFile, ...] | None = None, origin: Origin | None = None
) -> Imported | None:
    """Hold the import of a registered base, whose import.json lies in `folder`, against what is asked for now.

    Args:
        folder: Holds import.json alone.
        name: Of the base.
        sources: The files that would be read; None while they are not here yet.
        origin: The repository that they would come from.

    Returns:
        The base, if it came from the same files; None if that can't be told yet.

    Raises:
        BaseConflict: It came from others, or from another version of the importer.
    """
    record = read(folder)
    if record is not None and record.converter == CONVERTER:
        if origin is not None and record.origin is not None and record.origin.content == origin.content:
            return Imported(name=name, path=folder, record=record, files=_complete(folder, record.files), reused=True)
        if sources == record.sources:
            return Imported(name=name, path=folder, record=record, files=_complete(folder, record.files), reused=True)
    if sources is None:
        return None
    raise BaseConflict(
        f"There is a base {name!r}, imported from other files or by another version; choose another name, as bases never "
        "change."
    )


def earlier(target: Path, *, name: str, sources: tuple[AdapterFile, ...]) -> Imported | None:
    """Find what an import that was cut off before its end left complete in `target`; None where there is none.

    Raises:
        BaseConflict: A folder is there that no import made.
    """
    if not target.exists():
        return None
    record = read(target)
    if record is None:
        raise BaseConflict(f"{target.name!r} is there already and no import made it; choose another name.")
    files = tuple(hashed(target / file.name) for file in record.files if (target / file.name).is_file())
    if record.converter != CONVERTER or record.sources != sources or files != record.files:
        return None
    return Imported(name=name, path=target, record=record, files=_complete(target, files), reused=True)


def _complete(folder: Path, files: tuple[AdapterFile, ...]) -> tuple[AdapterFile, ...]:
    return (*files, hashed(folder / FILE))
