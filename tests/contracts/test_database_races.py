"""What several processes and threads do to one database at once, and what a dying connection leaves behind."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from core.db.transactions import Database, DatabaseUnavailable, connect, transaction
from core.domain.jobs import AttemptLost, Failure, FailureClass, JobAlreadyFinished, JobCancelled, Status
from core.domain.pages import Filters
from core.services import commits, jobs, keys
from core.services.idempotency import KeyInFlight, replay
from tests.support.worlds import LEASE_S, World, a_new_adapter, a_progress

JOBS = 200
RACES = 40
ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def test_three_processes_run_each_of_two_hundred_jobs_once(world: World, database_url: str) -> None:
    waiting = [world.submit().id for _ in range(JOBS)]
    claimers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.claimer", database_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(len(claimers)) as pool:
        outputs = list(pool.map(lambda claimer: claimer.communicate("go\n")[0].split(), claimers))
    assert [claimer.returncode for claimer in claimers] == [0, 0, 0]
    assert sorted(job_id for output in outputs for job_id in output) == waiting
    with world.database.engine.connect() as connection:
        versions = connection.execute(text("SELECT version FROM adapters ORDER BY version")).scalars().all()
        numbers = set(connection.execute(text("SELECT number FROM attempts")).scalars())
    assert (list(versions), numbers) == (list(range(1, JOBS + 1)), {1})


def test_eight_threads_with_one_key_make_one_job(world: World) -> None:
    submitted = run_all([lambda: world.submitted(key="same")] * 8)
    assert len({found.job.id for found in submitted}) == 1
    assert [found.replayed for found in submitted].count(False) == 1


def test_a_key_whose_first_request_is_at_work_is_said_to_be(postgres_url: str) -> None:
    database = connect(postgres_url)
    world = World.of(database)
    with transaction(database) as tx:
        replay(tx, project_id=world.caller.project_id, key="same", request_sha256="0" * 64)
        with pytest.raises(KeyInFlight):
            world.submitted(key="same")
    database.close()


def test_cancel_and_success_never_both_win(world: World) -> None:
    won = {"cancelled": 0, "succeeded": 0}
    for _ in range(RACES):
        job = world.submit()
        held = world.claim()
        start = threading.Barrier(2)

        def succeed(held: Any = held, start: threading.Barrier = start) -> str:
            start.wait()
            try:
                jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
            except JobCancelled:
                return "cancelled"
            return "succeeded"

        def cancel(job_id: str = job.id, start: threading.Barrier = start) -> str:
            start.wait()
            try:
                jobs.cancel(job_id, caller=world.caller, database=world.database)
            except JobAlreadyFinished:
                return "succeeded"
            return "cancelled"

        seen = set(run_all([succeed, cancel]))
        ended = world.job(job.id)
        assert seen == {ended.status.value}
        assert (ended.adapter is not None) == (ended.status is Status.SUCCEEDED)
        assert world.statuses(job.id) == ["queued", "running", ended.status.value]
        won[ended.status.value] += 1
    assert sum(won.values()) == RACES


def test_a_holder_that_overslept_writes_nothing_while_the_next_one_works(world: World) -> None:
    job = world.submit()
    lost = world.claim(lease_s=-1)
    jobs.reap(world.database)
    taken = world.claim()

    def late() -> int:
        refused = 0
        for step in range(20):
            try:
                jobs.record(lost, a_progress(step), database=world.database, lease_s=LEASE_S)
            except AttemptLost:
                refused += 1
        return refused

    def timely() -> int:
        for step in range(20):
            jobs.record(taken, a_progress(1000 + step), database=world.database, lease_s=LEASE_S)
        return 0

    assert run_all([late, timely]) == [20, 0]
    steps = [metric.step for metric in jobs.metrics(job.id, caller=world.caller, database=world.database)]
    assert steps == list(range(1000, 1020))
    world.statuses(job.id)


def test_several_reapers_take_a_job_back_once(world: World) -> None:
    submitted = [world.submit().id for _ in range(20)]
    for _ in submitted:
        world.claim(lease_s=-1)
    assert sum(run_all([lambda: jobs.reap(world.database)] * 4)) == len(submitted)
    assert all(world.statuses(job_id) == ["queued", "running", "queued"] for job_id in submitted)


class TestUncertainCommit:
    def test_one_that_went_through_is_found_and_not_repeated(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = world.submit()
        held = world.claim()
        break_commits(world.database, monkeypatch, after=True)
        adapter = jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
        assert made_by(world, job.id) == adapter.id
        assert world.statuses(job.id) == ["queued", "running", "succeeded"]

    def test_one_that_was_lost_is_done_again(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        job = world.submit()
        held = world.claim()
        break_commits(world.database, monkeypatch, after=False)
        adapter = jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
        assert (made_by(world, job.id), adapter.version) == (adapter.id, 1)

    @pytest.mark.parametrize("after", [True, False])
    def test_a_failure_is_told_once(self, world: World, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
        job = world.submit()
        held = world.claim()
        break_commits(world.database, monkeypatch, after=after)
        failure = Failure(code="x", message="x", failure_class=FailureClass.USER_ERROR)
        assert jobs.fail(held, failure, database=world.database).status is Status.FAILED
        assert world.statuses(job.id) == ["queued", "running", "failed"]

    def test_a_database_that_stays_away_is_said_to(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.submit()
        held = world.claim()
        monkeypatch.setattr(commits, "PAUSES_S", (0.0, 0.0))
        break_commits(world.database, monkeypatch, after=False, times=100)
        with pytest.raises(DatabaseUnavailable):
            jobs.release(held, to=Status.QUEUED, database=world.database)


def test_a_busy_file_makes_requests_wait_and_readers_not(sqlite_url: str) -> None:
    database = connect(sqlite_url)
    world = World.of(database)
    job = world.submit()
    with transaction(database) as tx:
        tx.projects.ensure("held open")
        assert world.job(job.id).status is Status.QUEUED
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(jobs.cancel, job.id, caller=world.caller, database=database)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            tx.jobs.connection.commit()
            assert waiting.result(timeout=5).status is Status.CANCELLED
    database.close()


def test_a_key_works_while_a_writer_holds_the_file(sqlite_url: str) -> None:
    database = connect(sqlite_url)
    secret = keys.new_secret()
    keys.seed(secret, database=database, pepper=b"pepper for a test")
    with transaction(database) as tx:
        tx.projects.ensure("held open")
        impatient = connect(sqlite_url)
        with impatient.engine.connect() as raw:
            raw.connection.driver_connection.execute("PRAGMA busy_timeout=10")  # type: ignore[union-attr]
        assert keys.authenticate(secret, database=impatient, pepper=b"pepper for a test").project == "default"
        impatient.close()
    assert keys.listing(
        Filters(), caller=keys.authenticate(secret, database=database, pepper=b"pepper for a test"), database=database
    ).data
    database.close()


def made_by(world: World, job_id: str) -> str | None:
    made = world.job(job_id).adapter
    return None if made is None else made.id


def run_all(tasks: list[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def break_commits(database: Database, monkeypatch: pytest.MonkeyPatch, *, after: bool, times: int = 1) -> None:
    """Let the next commits die as a lost connection does: before or after the server has done them."""
    dialect = database.engine.dialect
    commit = dialect.do_commit
    left = [times]

    def dying(connection: Any) -> None:
        if not left[0]:
            return commit(connection)
        left[0] -= 1
        if after:
            commit(connection)
        else:
            connection.rollback()
        assert dialect.loaded_dbapi is not None
        raise dialect.loaded_dbapi.OperationalError("the connection was lost")

    monkeypatch.setattr(dialect, "do_commit", dying)
