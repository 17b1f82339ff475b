"""A tiny base for the trainer's tests, made once."""

from pathlib import Path

import pytest

from tests.support import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.make(tmp_path_factory.mktemp("base") / "tiny")
