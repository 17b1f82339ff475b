"""Which files of an import are finished, so that one that was killed goes on where it was.

The journal lies in the staging folder. It names what the import was made from, and each finished file with its hash;
whatever else lies there, or differs from its hash, is removed. Knows no tensors and no layouts.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from core.domain.adapters import AdapterFile
from core.ml import records

FILE: Final = "journal.json"
_FINISHED: Final = TypeAdapter(tuple[AdapterFile, ...])


class Journal:
    """The finished files of a staging folder; `made_from` decides whose they are."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any], finished: Mapping[str, AdapterFile]) -> None:
        self._folder = folder
        self._made_from = made_from
        self._finished = dict(finished)

    @classmethod
    def open(cls, folder: Path, *, made_from: Mapping[str, Any]) -> Self:
        """Keep what an earlier import from the same things finished, by content, and remove everything else.

        Args:
            folder: The staging folder.
            made_from: JSON that names all that the written bytes depend on.
        """
        known = json.loads(json.dumps(made_from))
        kept = {file.name: file for file in _listed(folder / FILE, known) if _is_whole(folder, file)}
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        journal = cls(folder, known, kept)
        journal._write()
        return journal

    def finished(self, name: str) -> AdapterFile | None:
        """Find a file that need not be written again."""
        return self._finished.get(name)

    def add(self, file: AdapterFile) -> None:
        """Note a file whose bytes are on the disk."""
        self._finished[file.name] = file
        self._write()

    def close(self) -> None:
        """Remove the journal, since the folder is about to become a base."""
        (self._folder / FILE).unlink()

    def _write(self) -> None:
        content = {"made_from": self._made_from, "finished": [asdict(file) for file in self._finished.values()]}
        aside = self._folder / f".{FILE}"
        with aside.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._folder / FILE)


def _listed(path: Path, made_from: Mapping[str, Any]) -> tuple[AdapterFile, ...]:
    try:
        content = json.loads(path.read_bytes())
        return _FINISHED.validate_python(content["finished"]) if content["made_from"] == made_from else ()
    except (OSError, ValueError, ValidationError, LookupError, TypeError, RecursionError):
        return ()


def _is_whole(folder: Path, file: AdapterFile) -> bool:
    path = folder / file.name
    plain = Path(file.name).name == file.name and path.is_file() and not path.is_symlink()
    return plain and records.hashed(path) == file
