"""Secrets in files: made once, whole or absent, their owner's alone."""

import os
import secrets
from pathlib import Path


def ensure(path: Path, *, text: str) -> None:
    """Write a secret with mode 0600 unless one is there; of two that make it at once, the first one counts.

    Raises:
        OSError: The folder takes no file.
    """
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return
    finally:
        aside.unlink()
