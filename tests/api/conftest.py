"""One service for all tests of this folder; each test works in projects of its own."""

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.databases import SqliteDatabases
from tests.support.live import Live, serving

_numbers = itertools.count(1)
Client = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def live(sqlite_databases: SqliteDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    sqlite_databases.copy(folder)
    with serving(folder) as running:
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
