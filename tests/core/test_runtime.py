"""Settings become objects, and a process refuses to start on what can't serve."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import runtime
from core.db.schema import SchemaOutdated
from core.domain.workers import WorkerInfo
from core.runtime import PepperUnusable, Runtime
from core.services import health, workers
from core.settings import Settings
from core.storage.objects import Store
from migrations import upgrading
from tests.support.worlds import a_worker


def settings(folder: Path, **given: Any) -> Settings:
    return Settings(data_dir=folder / "data", **given)


def build(folder: Path, **given: Any) -> Runtime:
    made = settings(folder, **given)
    made.data_dir.mkdir(exist_ok=True)
    upgrading.upgrade(made.sql_url())
    return runtime.build(made)


def test_a_process_refuses_a_database_that_nobody_upgraded(tmp_path: Path) -> None:
    with pytest.raises(SchemaOutdated, match="python -m migrations upgrade"):
        runtime.build(settings(tmp_path))
    assert not (tmp_path / "data" / "bluelora.db").exists()


def test_the_defaults_need_nothing_but_a_folder(tmp_path: Path) -> None:
    with build(tmp_path) as built:
        assert built.relay is None
        built.wake("job_x")
        assert built.policy.max_queued_jobs == 10_000
        assert built.cache_dir.is_relative_to(tmp_path / "data")


def test_the_pepper_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with build(tmp_path) as first, build(tmp_path) as second:
        assert first.pepper == second.pepper
        assert len(first.pepper) == 64
    path = tmp_path / "data" / "pepper"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir() if "pepper" in found.name] == ["pepper"]


def test_a_pepper_of_the_operators_wins(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("sixteen bytes at least\n")
    with build(tmp_path, key_pepper_file=own) as built:
        assert built.pepper == b"sixteen bytes at least"
    own.write_text("short")
    with pytest.raises(PepperUnusable):
        build(tmp_path, key_pepper_file=own)
    with pytest.raises(PepperUnusable):
        build(tmp_path, key_pepper_file=tmp_path / "missing")


def statuses(built: Runtime) -> dict[str, str]:
    found = health.readiness(database=built.database, store=built.store, broker_url=built.broker_url)
    return {part.name: part.status for part in found.parts} | {"ready": str(found.ready)}


def test_database_and_storage_decide_whether_we_are_ready(tmp_path: Path) -> None:
    with build(tmp_path, broker_url="redis://127.0.0.1:1/0") as built:
        ready = {"database": "ok", "storage": "ok", "broker": "degraded", "workers": "degraded", "ready": "True"}
        assert statuses(built) == ready
        workers.register(a_worker(), database=built.database)
        assert statuses(built) == ready | {"workers": "ok"}
        (tmp_path / "data" / "bluelora.db").rename(tmp_path / "data" / "gone.db")
        built.database.close()
        gone = {"database": "down", "workers": "degraded", "ready": "False"}
        assert statuses(built) == ready | gone
        assert not (tmp_path / "data" / "bluelora.db").exists()


def test_a_store_that_is_away_makes_us_unready(tmp_path: Path) -> None:
    with build(tmp_path) as built:
        away = Store(built.store.backend, tmp_path / "nowhere")
        found = health.readiness(database=built.database, store=away, broker_url=None)
        assert not found.ready


@pytest.mark.parametrize("act", [workers.listing, workers.alive])
def test_workers_come_live_and_go(act: Callable[..., tuple[WorkerInfo, ...]], tmp_path: Path) -> None:
    with build(tmp_path) as built:
        worker = a_worker()
        workers.seen(worker, database=built.database)
        workers.seen(worker, database=built.database)
        found = act(database=built.database)
        assert [(one.id, one.device, one.memory_bytes) for one in found] == [(worker.id, "cpu", 2**34)]
        workers.leave(worker.id, database=built.database)
        assert act(database=built.database) == ()
