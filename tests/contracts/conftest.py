"""Stores and engines of every kind, and a world in a database of each kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from core.db.transactions import Database
from core.storage.objects import Store
from tests.support.s3 import BUCKET, S3
from tests.support.worlds import World

if TYPE_CHECKING:
    from tests.support.commanded import Nano, Restartable


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server, started when the first test asks for it."""
    server = S3()
    yield server
    server.close()


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of each kind in turn: whoever asks for it runs three times."""
    if request.param == "memory":
        return Store.open("memory://")
    if request.param == "file":
        return Store.open((tmp_path / "a folder").as_uri())
    for name, value in request.getfixturevalue("s3").environment.items():
        monkeypatch.setenv(name, value)
    return Store.open(f"s3://{BUCKET}/{uuid4().hex}")


@pytest.fixture
def world(database: Database) -> World:
    return World.of(database)


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> "Nano":
    """A data directory into which bluelm-nano was imported."""
    from tests.support import commanded  # noqa: PLC0415  (torch is not for tests of databases and stores)

    return commanded.imported(tmp_path_factory.mktemp("nano") / "data")


@pytest.fixture(scope="session", params=["embedded", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(
    request: pytest.FixtureRequest, nano: "Nano", tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Restartable"]:
    """A running engine of each kind in turn, on bluelm-nano in float32."""
    from tests.support.commanded import Restartable  # noqa: PLC0415  (as above)

    running = Restartable(nano, request.param, tmp_path_factory.mktemp(request.param))
    yield running
    running.close()
