"""Where things lie in a data directory, and which service the command talks to."""

import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import core
from core import secretfiles

ROOT: Final = Path(core.__file__).parents[1]
"""The folder that holds our packages and `assets`: children start here, so that no other `core` wins."""

DEFAULT_DATA_DIR: Final = Path("bluelora-data")


@dataclass(frozen=True, slots=True)
class DataDir:
    """The files that `bluelora up` keeps and the other commands look for."""

    path: Path

    @property
    def service_file(self) -> Path:
        """`{"url", "pids"}` of the running service."""
        return self.path / "service.json"

    @property
    def admin_key_file(self) -> Path:
        """The admin key that `up` made."""
        return self.path / "admin.key"

    @property
    def engine_key_file(self) -> Path:
        """The key between the API and its embedded engine."""
        return self.path / "engine.key"

    @property
    def broker_socket(self) -> Path:
        """Where the bundled Valkey listens."""
        return self.path / "run" / "valkey.sock"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.path / "logs"

    @property
    def bases(self) -> Path:
        """Imported bases as folders, before they are stored."""
        return self.path / "cache" / "imports"


def chosen(option: Path | None) -> DataDir:
    """The data directory of an option, else of BLUELORA_DATA_DIR, else the default below the working directory."""
    return DataDir((option or Path(os.environ.get("BLUELORA_DATA_DIR", DEFAULT_DATA_DIR))).absolute())


def secret_file(path: Path, *, make: str | None = None) -> str:
    """Read a secret, or write it first with mode 0600; the file is whole or absent.

    Args:
        path: Where it lies.
        make: The text to write if there is none yet; None makes a random one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    secretfiles.ensure(path, text=(make or secrets.token_urlsafe(32)) + "\n")
    return path.read_text().strip()


def write_json(path: Path, content: object) -> None:
    """Replace a small JSON file, so that a reader sees the old one or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(json.dumps(content) + "\n")
    draft.replace(path)


def plain_name(text: str) -> str:
    """Make a resource name of a file's stem: lower case, and `-` for what names can't hold."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return plain[:64] or "dataset"
