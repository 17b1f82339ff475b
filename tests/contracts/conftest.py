"""Stores of every kind, and a world in a database of each kind."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.db.transactions import Database
from core.storage.objects import Store
from tests.support.s3 import BUCKET, S3
from tests.support.worlds import World


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
