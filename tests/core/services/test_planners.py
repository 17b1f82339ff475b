"""The outlining process: confined, few at a time, its outlines remembered, and its end told whatever ends it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.domain.bases import BaseUnusable
from core.domain.training import TrainSpec
from core.services import planners
from core.services.planners import Planners, Source, TooComplex, TooManyPlans, Wanted
from core.text.shares import Size
from tests.support import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.make(tmp_path_factory.mktemp("base"))


def _row(number: int) -> bytes:
    row = {"instruction": f"question {number % 97}", "input": "", "output": "answer"}
    return json.dumps(row).encode() + b"\n"


def _source(rows: int, *, name: str = "a", chunks: Callable[[], Iterator[bytes]] | None = None) -> Source:
    def some() -> Iterator[bytes]:
        for start in range(0, rows, 1000):
            yield b"".join(map(_row, range(start, min(start + 1000, rows))))

    return Source(sha256=name, size_bytes=17 * rows, size=Size(rows=rows, characters=17 * rows), chunks=chunks or some)


def _wanted(base: Path, data: Source, validation: Source | None = None, **fields: Any) -> Wanted:
    spec = TrainSpec.model_validate({"dataset": "ds", "name": "x"} | fields)
    return Wanted(spec=spec, fingerprint="f", parameters=1000, folder=lambda: base, data=data, validation=validation)


def test_an_outline_is_remembered_by_what_matters(base: Path) -> None:
    asked = []

    def chunks() -> Iterator[bytes]:
        asked.append(1)
        yield from map(_row, range(20))

    ours = Planners()
    first = ours.outline(_wanted(base, _source(20, chunks=chunks)))
    again = ours.outline(_wanted(base, _source(20, chunks=chunks), name="other", metadata={"a": "b"}))
    assert first is again
    assert len(asked) == 1
    assert ours.outline(_wanted(base, _source(20, chunks=chunks), num_train_epochs=1)) != first
    assert ours.outline(_wanted(base, _source(20, name="b", chunks=chunks))) == first
    assert len(asked) == 3


def test_of_a_large_file_the_start_is_read_and_the_rest_is_not_sent(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        block = b"".join(map(_row, range(2000)))
        while True:
            sent += 2000
            yield block

    monkeypatch.setattr(planners, "PATIENCE_S", 120.0)  # a busy machine renders slowly
    data = Source(sha256="large", size_bytes=17 * 10**7, size=Size(rows=10**7, characters=17 * 10**7), chunks=endless)
    other = _source(30, name="v")
    found = Planners().outline(_wanted(base, data, other, max_steps=7))
    assert found.estimated
    assert found.read_rows < sent < 200_000
    assert found.train.rows == 10**7
    assert found.validation is not None
    assert found.validation.rows == 30
    assert found.low <= found.trained_tokens <= found.high


def test_a_base_whose_files_are_damaged_is_unusable(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseUnusable, match=r"tokenizer\.json is missing"):
        Planners().outline(_wanted(tmp_path, _source(5)))


def test_a_store_that_fails_meanwhile_is_told_and_nothing_is_left_behind(base: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield _row(1)
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        Planners().outline(_wanted(base, _source(5, chunks=broken)))


def test_a_source_that_never_ends_its_bytes_is_given_up(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planners, "PATIENCE_S", 1.0)

    def slow() -> Iterator[bytes]:
        yield _row(1)
        while True:
            time.sleep(0.1)
            yield b"\n"

    with pytest.raises(TooComplex):
        Planners().outline(_wanted(base, _source(5, chunks=slow)))


def test_more_plans_than_are_made_at_once_are_sent_away(base: Path) -> None:
    free, held = threading.Event(), threading.Semaphore(0)

    def waiting() -> Iterator[bytes]:
        held.release()
        assert free.wait(30)
        yield from map(_row, range(5))

    ours = Planners()
    with ThreadPoolExecutor(planners.AT_ONCE) as pool:
        names = [str(number) for number in range(planners.AT_ONCE)]
        running = [pool.submit(ours.outline, _wanted(base, _source(5, name=name, chunks=waiting))) for name in names]
        for _ in names:
            assert held.acquire(timeout=30)
        freeing = threading.Timer(2.0, free.set)  # who waited would have a turn then
        freeing.start()
        with pytest.raises(TooManyPlans) as caught:
            ours.outline(_wanted(base, _source(5, name="late")))
        assert caught.value.retry_after_s
        freeing.cancel()
        free.set()
        assert all(one.result().train.rows == 5 for one in running)
