"""A model folder that came from somewhere: files are opened only if they are plain and lie inside it.

Knows names, bytes and hashes; knows no tensors. Messages name files, never paths.
"""

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from core.domain.checkpoints import CheckpointNotFound, DamagedCheckpoint, UnsafeCheckpoint

CHUNK_BYTES: Final = 4 * 2**20
MAX_TEXT_BYTES: Final = 64 * 2**20
SHA256: Final = re.compile(r"[0-9a-f]{64}")
SHARED_BLOBS_MARKER: Final = ".huggingface-shared-blobs"
LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


class Source:
    """A folder to import from.

    Raises:
        CheckpointNotFound: There is no such folder.
        UnsafeCheckpoint: Its path is not UTF-8.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointNotFound(f"There is no folder {folder.name!r}; give a model's folder or a hub id.")
        self.folder = folder.resolve()
        try:
            str(self.folder).encode()
        except UnicodeEncodeError as error:  # torch opens no such path, and its error looks like a damaged file's
            raise UnsafeCheckpoint("The folder's path is not UTF-8; rename the folder, or move it.") from error

    def names(self) -> list[str]:
        """List the entries, sorted."""
        return sorted(entry.name for entry in self.folder.iterdir())

    def has(self, name: str) -> bool:
        """Say whether an entry of this name is there, even if it is a broken link."""
        return name in self.names()

    def path(self, name: str) -> Path:
        """Find a file's path, checked.

        Raises:
            DamagedCheckpoint: It is missing, empty of rights, or a git-lfs pointer.
            UnsafeCheckpoint: It is no plain file, or lies outside the folder.
        """
        if Path(name).name != name or name in {"", ".", ".."} or "\x00" in name:
            raise UnsafeCheckpoint(f"A file is named {name[:100]!r}; files must lie in the folder itself.")
        path = self.folder / name
        try:
            real = path.resolve(strict=True)
            status = real.stat()
        except (OSError, RuntimeError) as error:
            raise DamagedCheckpoint(f"{name} is missing or can't be read; download it again.") from error
        if not real.is_relative_to(self.folder) and not self._is_cached(real):
            raise UnsafeCheckpoint(f"{name} is a link out of the folder; copy the file itself into it (cp -L).")
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeCheckpoint(f"{name} is no plain file.")
        with _opened(path, name) as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DamagedCheckpoint(f"{name} is a git-lfs pointer, not the file; run `git lfs pull` first.")
        return path

    def _is_cached(self, real: Path) -> bool:
        """Say whether a file is a blob of the Hugging Face cache that this folder is a snapshot of.

        Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache, and huggingface_hub 2.4, where a
        repository's blobs may be links into the cache's own (utils/_shared_blobs.py).
        """
        repository = self.folder.parent.parent
        if self.folder.parent.name != "snapshots" or not repository.name.startswith("models--"):
            return False
        shared = repository.parent / "blobs"
        return real.parent == repository / "blobs" or (
            real.parent.parent == shared and (shared / SHARED_BLOBS_MARKER).is_file()
        )

    def size(self, name: str) -> int:
        """Count a file's bytes."""
        return self.path(name).stat().st_size

    def read(self, name: str) -> bytes:
        """Read a small file whole.

        Raises:
            DamagedCheckpoint: Beyond `path`'s causes: it is over 64 MiB.
        """
        with _opened(self.small(name), name) as file:
            return file.read()

    def small(self, name: str) -> Path:
        """Find the path of a file that is to be read whole.

        Raises:
            DamagedCheckpoint: Beyond `path`'s causes: it is over 64 MiB.
        """
        path = self.path(name)
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DamagedCheckpoint(f"{name} has over {MAX_TEXT_BYTES >> 20} MiB, too many for what it should hold.")
        return path

    def text(self, name: str) -> str:
        """Read a small UTF-8 file."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise DamagedCheckpoint(f"{name} is not UTF-8 text.") from error

    def members(self, name: str) -> Mapping[str, Any]:
        """Read a JSON object."""
        try:
            parsed = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise DamagedCheckpoint(f"{name} is not JSON.") from error
        if not isinstance(parsed, dict):
            raise DamagedCheckpoint(f"{name} holds no JSON object.")
        return parsed

    def sha256(self, name: str, *, read: Callable[[int], None]) -> str:
        """Hash a file; `read` is told of each chunk's bytes.

        Raises:
            DamagedCheckpoint: The hash differs from one that came with the folder.
        """
        digest = hashlib.sha256()
        for chunk in chunks(self.path(name), name):
            digest.update(chunk)
            read(len(chunk))
        expected = self._known_hashes().get(name, digest.hexdigest())
        if digest.hexdigest() != expected:
            raise DamagedCheckpoint(
                f"{name} has sha256 {digest.hexdigest()[:12]}…, its index says {expected[:12]}…; download it again."
            )
        return digest.hexdigest()

    def _known_hashes(self) -> Mapping[str, str]:
        """Collect hashes that came along: a SHA256SUMS file, and what huggingface_hub notes of its downloads.

        In its cache a large file's blob is called by its sha256.
        """
        links = [path for path in self.folder.iterdir() if path.is_symlink()]
        blobs = {path.name: path.readlink() for path in links}
        known = {
            name: blob.name
            for name, blob in blobs.items()
            if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name)
        }
        for metadata in sorted(self.folder.glob(".cache/huggingface/download/*.metadata")):
            lines = metadata.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(lines) > 1 and SHA256.fullmatch(lines[1]):
                known[metadata.name.removesuffix(".metadata")] = lines[1]
        if self.has("SHA256SUMS"):
            for line in self.text("SHA256SUMS").splitlines():
                sha256, _, name = line.partition(" ")
                if SHA256.fullmatch(sha256.lower()):
                    known[name.strip().removeprefix("*").removeprefix("./")] = sha256.lower()
        return known


def chunks(path: Path, name: str) -> Iterator[bytes]:
    """Read a file in pieces.

    Raises:
        DamagedCheckpoint: The disk or the rights fail.
    """
    with _opened(path, name) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DamagedCheckpoint(f"{name} can't be read: {error.strerror}.") from error
