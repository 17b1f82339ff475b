"""A worker's loop and its sweep, on a real database; the trainer is never started or fails on purpose."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from core.domain.jobs import Status
from core.services import workers
from tests.support import workshops
from tests.support.worker_processes import wait_until
from tests.support.workshops import Workshop, a_worker
from worker import chores
from worker.child import Child, Program
from worker.inputs import Site
from worker.resident import Resident
from worker.rounds import Rounds
from worker.shift import Leaving, Shift
from worker.sweep import LOST_SWEEPS, Sweep

EVERY_S = 0.1


class Broken(Resident):
    """A trainer that can't be had, for a reason of ours."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(Program(log_path=Path("/nowhere/log")))
        self.error = error
        self.asked = 0

    @override
    def for_base(self, fingerprint: str) -> Child:
        self.asked += 1
        raise self.error


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str) -> Iterator[Workshop]:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    rows = [{"instruction": "问", "input": "", "output": "答"}]
    made = workshops.make(tmp_path / "data", sqlite_url, base_dir=base, rows=rows)
    yield made
    made.database.close()


def a_shift(shop: Workshop, resident: Resident, *, memory_bytes: int = 2**40) -> Shift:
    site = Site(
        database=shop.database, store=shop.store, data_dir=shop.folder, device="cpu",
        lease_s=30.0, heartbeat_s=10.0, stall_s=900.0,
    )  # fmt: skip
    info = replace(a_worker("wk_shift"), memory_bytes=memory_bytes)
    workers.register(info, database=shop.database)
    return Shift(info=info, site=site, resident=resident, leaving=Leaving())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
def test_an_error_of_ours_ends_the_attempt_and_not_the_worker(shop: Workshop, error: BaseException) -> None:
    first, second = shop.submit(), shop.submit()
    resident = Broken(error)
    a_shift(shop, resident).work()
    assert resident.asked == 2
    for job in (first, second):
        waiting = shop.job(job.id)
        assert waiting.status is Status.QUEUED
        assert waiting.status_reason == "infra"
        assert "a bug" not in " ".join(event.message for event in shop.events(job.id))
    assert list((shop.folder / "scratch").iterdir()) == []


def test_a_disk_without_room_is_told_as_such(shop: Workshop) -> None:
    job = shop.submit()
    a_shift(shop, Broken(OSError(28, "No space left on device"))).work()
    waiting = shop.job(job.id)
    assert waiting.status_reason == "disk_full"
    assert waiting.charged == 0


def test_nothing_is_claimed_by_a_worker_that_leaves(shop: Workshop) -> None:
    job = shop.submit()
    shift = a_shift(shop, Broken(RuntimeError()))
    shift.leaving.asked = True
    shift.work()
    assert shop.job(job.id).attempt == 0


def test_a_worker_without_memory_for_the_base_leaves_the_job_alone(shop: Workshop) -> None:
    job = shop.submit()
    shift = a_shift(shop, Broken(RuntimeError()), memory_bytes=1000)
    woken: list[str] = []
    shift.work()
    time.sleep(EVERY_S * LOST_SWEEPS + 0.05)
    Sweep(shift, wake=woken.append, every_s=EVERY_S).sweep()
    assert shop.job(job.id).attempt == 0
    assert not woken


def test_a_sweep_sends_a_lost_hint_again_but_not_a_fresh_one(shop: Workshop) -> None:
    woken: list[str] = []
    shift = a_shift(shop, Broken(RuntimeError()))
    sweep = Sweep(shift, wake=woken.append, every_s=1.0)
    job = shop.submit()
    sweep.sweep()
    assert not woken
    time.sleep(1.0 * LOST_SWEEPS + 0.05)
    sweep.sweep()
    assert woken == [job.id]


def test_a_sweep_goes_on_beside_a_busy_worker(shop: Workshop) -> None:
    woken: list[str] = []
    release = threading.Event()

    class Slow(Broken):
        @override
        def for_base(self, fingerprint: str) -> Child:
            release.wait(10)
            return super().for_base(fingerprint)

    shift = a_shift(shop, Slow(RuntimeError()))
    held, waiting = shop.submit(), shop.submit()
    sweep = Rounds("sweep", Sweep(shift, wake=woken.append, every_s=EVERY_S).sweep, every_s=EVERY_S)
    at_work = threading.Thread(target=shift.work)
    at_work.start()
    wait_until(lambda: shop.job(held.id).status is Status.RUNNING)
    with shop.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workers SET last_seen = 0 WHERE id = 'wk_shift'")
        connection.exec_driver_sql("UPDATE jobs SET lease_until = 0 WHERE status = 'running'")
    sweep.start()
    wait_until(lambda: "wk_shift" in {worker.id for worker in workers.alive(database=shop.database)})
    wait_until(lambda: shop.job(held.id).status is Status.QUEUED)
    time.sleep(EVERY_S * 2 * LOST_SWEEPS)
    sweep.stop()
    assert shop.job(waiting.id).attempt == 0
    assert not woken
    shift.leaving.asked = True
    release.set()
    at_work.join()


def test_a_base_that_was_fetched_later_is_shown(shop: Workshop) -> None:
    shift = a_shift(shop, Broken(RuntimeError()))
    (shift.site.bases / "0a1b").mkdir(parents=True)
    (shift.site.bases / ".0c2d.part").mkdir()
    woken: list[str] = []
    Sweep(shift, wake=woken.append, every_s=EVERY_S).sweep()
    bases = {worker.id: worker.bases for worker in workers.alive(database=shop.database)}
    assert bases["wk_shift"] == ("0a1b",)


def test_a_worker_that_leaves_is_shown_as_draining_and_then_forgotten(shop: Workshop) -> None:
    shift = a_shift(shop, Broken(RuntimeError()))
    shift.leaving.asked = True
    Sweep(shift, wake=lambda _: None, every_s=EVERY_S).sweep()
    shown = {worker.id: worker.draining for worker in workers.listing(database=shop.database)}
    assert shown["wk_shift"]
    shift.end()
    assert "wk_shift" not in {worker.id for worker in workers.listing(database=shop.database)}


def test_a_round_that_fails_is_followed_by_the_next() -> None:
    done = threading.Event()
    seen: list[int] = []

    def act() -> None:
        seen.append(1)
        if len(seen) == 3:
            done.set()
        raise RuntimeError("always")

    rounds = Rounds("failing", act, every_s=0.01)
    rounds.start()
    assert done.wait(5)
    rounds.stop()


def test_chores_clear_old_scratch_and_orphaned_uploads(shop: Workshop) -> None:
    shift = a_shift(shop, Broken(RuntimeError()))
    old = shift.site.scratch / "job_gone-1"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert shop.store.folder is not None
    orphan = shop.store.folder / "blobs" / "orphan"
    orphan.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    blobs = len(list((shop.store.folder / "blobs").iterdir()))
    chores.tidy(shift.site)
    assert not old.exists()
    assert not orphan.exists()
    assert len(list((shop.store.folder / "blobs").iterdir())) == blobs - 1
