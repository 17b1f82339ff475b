"""A world in a database of each kind."""

import pytest

from core.db.transactions import Database
from tests.support.worlds import World


@pytest.fixture
def world(database: Database) -> World:
    return World.of(database)
