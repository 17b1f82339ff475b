"""One service for all tests of this folder; each test works in projects of its own."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support import registry
from tests.support.databases import SqliteDatabases
from tests.support.live import Live, serving

if TYPE_CHECKING:
    from tests.support.answering import Answering

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def live(sqlite_databases: SqliteDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with one base that has no files, `plain`."""
    folder = tmp_path_factory.mktemp("live")
    sqlite_databases.copy(folder)
    with serving(folder, max_body_bytes=65_536, max_upload_bytes=1_000_000, base="plain") as running:
        registry.base(running.runtime, name="plain")
        yield running


@pytest.fixture
def project() -> str:
    """The name of a project that nobody has used."""
    return f"p{next(_numbers)}"


@pytest.fixture
def client(live: Live, project: str) -> Iterator[httpx.Client]:
    """A member of a fresh project."""
    with live.client(live.key("member", project=project)) as opened:
        yield opened


@pytest.fixture
def stranger(live: Live) -> Iterator[httpx.Client]:
    """A member of another project."""
    with live.client(live.key("member", project=f"p{next(_numbers)}")) as opened:
        yield opened


@pytest.fixture(scope="session")
def served(sqlite_databases: SqliteDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Answering"]:
    """Another service, with a real engine and the base `tiny`."""
    from tests.support.answering import answering  # noqa: PLC0415  (torch is not for tests that don't answer)

    folder = tmp_path_factory.mktemp("answering")
    sqlite_databases.copy(folder)
    with answering(folder) as running:
        yield running


@pytest.fixture
def asker(served: "Answering", project: str) -> Iterator[httpx.Client]:
    """A member of a fresh project of the service that answers."""
    with served.live.client(served.live.key("member", project=project)) as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny(live: Live, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The service of `live` knows a second base with real files, `tiny`."""
    from tests.support import answering, tiny_base  # noqa: PLC0415  (torch is not for tests that don't need it)

    answering.register(live.runtime, tiny_base.make(tmp_path_factory.mktemp("tiny")))
