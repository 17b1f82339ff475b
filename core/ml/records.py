"""What an import leaves behind: import.json in the folder, and the value that callers register.

The fingerprint is over the files that define the model, never over import.json, which may name versions.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from core.domain.adapters import AdapterFile
from core.domain.bases import BaseConflict
from core.domain.checkpoints import DamagedCheckpoint
from core.ml.sources import chunks

FILE: Final = "import.json"
CONVERTER: Final = 1
"""Rises when the same source would give other bytes."""
LIBRARIES: Final = ("torch", "safetensors", "tokenizers", "sentencepiece")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The content of import.json. Sizes in bytes; `rows` of the embedding; `max_ulp` of the folded table.

    `sources` are the files read, `files` the files written except import.json itself.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A base that lies complete in `path`; `reused` says that it already did."""

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
            "max_ulp": record.max_ulp,
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


def earlier(target: Path, *, name: str, sources: tuple[AdapterFile, ...]) -> Imported | None:
    """Find the import that this one would repeat; None where nothing is there yet.

    Raises:
        BaseConflict: Something else is there.
        DamagedCheckpoint: The files there are no longer those that were written.
    """
    if not target.exists():
        return None
    record = read(target)
    if record is None or record.converter != CONVERTER or record.sources != sources:
        raise BaseConflict(f"{target.name!r} is there already and came from other files; choose another name.")
    files = tuple(hashed(target / file.name) for file in record.files if (target / file.name).is_file())
    if files != record.files:
        raise DamagedCheckpoint(f"The files of {target.name!r} have changed since its import; remove it, import again.")
    return Imported(name=name, path=target, record=replace(record), files=(*files, hashed(target / FILE)), reused=True)
