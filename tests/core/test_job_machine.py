"""The job protocol against a model of it, by random walks: no job lost, no stale write, gapless legal histories."""

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text
from typing_extensions import override

from core.db.transactions import connect
from core.domain.jobs import (
    ENDED,
    NEXT,
    AttemptLost,
    Claim,
    Failure,
    FailureClass,
    JobAlreadyFinished,
    JobCancelled,
    Status,
)
from core.domain.training import Checkpointed
from core.services import jobs
from tests.support.databases import SqliteDatabases
from tests.support.worlds import LEASE_S, World, a_new_adapter, a_progress

FAILURES = (FailureClass.USER_ERROR, FailureClass.OOM, FailureClass.STALLED, FailureClass.WORKER_LOST)


class JobMachine(RuleBasedStateMachine):
    """One project, several workers. `holder` says which claim holds a job: only that one may write."""

    databases: SqliteDatabases
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="blmachine-"))
        self.database = connect(self.databases.copy(self.folder))
        self.world = World.of(self.database)
        self.submitted: list[str] = []
        self.holder: dict[str, Claim] = {}
        self.asked: set[str] = set()

    @override
    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    @rule()
    def submit(self) -> None:
        self.submitted.append(self.world.submit().id)

    @rule(target=claims)
    def claim(self) -> Claim | None:
        held = self.world.try_claim()
        waiting = [job_id for job_id in self.submitted if self.status(job_id) is Status.QUEUED]
        assert held is not None or not waiting
        if held is not None:
            assert held.job.id not in self.holder
            self.holder[held.job.id] = held
        return held

    @rule(claim=claims, step=st.integers(1, 100), checkpoint=st.booleans())
    def speak(self, claim: Claim | None, step: int, checkpoint: bool) -> None:
        if claim is None:
            return
        said = Checkpointed(step=step, path="x", manifest_sha256="0" * 64, bytes=1) if checkpoint else a_progress(step)
        try:
            wish = jobs.record(claim, said, database=self.database, lease_s=LEASE_S)
        except AttemptLost:
            assert self.holder.get(claim.job.id) is not claim
        else:
            assert self.holder[claim.job.id] is claim
            assert wish == ("cancel" if claim.job.id in self.asked else "go_on")

    @rule(claim=claims, reason=st.sampled_from(["completed", "early_stopped"]))
    def succeed(self, claim: Claim | None, reason: str) -> None:
        if claim is None:
            return
        try:
            jobs.succeed(claim, adapter=a_new_adapter(), reason=reason, database=self.database)  # type: ignore[arg-type]
        except JobCancelled:
            assert claim.job.id in self.asked
            self.ended(claim)
        except AttemptLost:
            assert self.holder.get(claim.job.id) is not claim
        else:
            assert claim.job.id not in self.asked
            self.ended(claim)

    @rule(claim=claims, kind=st.sampled_from(FAILURES))
    def fail(self, claim: Claim | None, kind: FailureClass) -> None:
        if claim is None:
            return
        failure = Failure(code=kind.value, message="It broke.", failure_class=kind)
        try:
            job = jobs.fail(claim, failure, database=self.database)
        except AttemptLost:
            assert self.holder.get(claim.job.id) is not claim
        else:
            self.ended(claim)
            assert (job.status is Status.CANCELLED) == (claim.job.id in self.asked)

    @rule(claim=claims)
    def hand_back(self, claim: Claim | None) -> None:
        if claim is None:
            return
        try:
            job = jobs.release(claim, to=Status.QUEUED, database=self.database)
        except AttemptLost:
            assert self.holder.get(claim.job.id) is not claim
        else:
            self.ended(claim)
            assert job.status is (Status.CANCELLED if claim.job.id in self.asked else Status.QUEUED)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.submitted))
        before = self.status(job_id)
        try:
            after = jobs.cancel(job_id, caller=self.world.caller, database=self.database).status
        except JobAlreadyFinished:
            assert before in {Status.SUCCEEDED, Status.FAILED}
        else:
            assert after is (Status.RUNNING if before is Status.RUNNING else Status.CANCELLED)
            self.asked.add(job_id)

    @precondition(lambda self: self.holder)
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.holder)))
        with self.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET lease_until = 0 WHERE id = :id"), {"id": job_id})
        assert jobs.reap(self.database) == 1
        self.ended(self.holder[job_id])

    @invariant()
    def every_history_is_whole_and_legal(self) -> None:
        for job_id in self.submitted:
            told = [Status(str(status)) for status in self.world.statuses(job_id)]
            assert told[0] is Status.QUEUED
            assert all(after in NEXT[before] for before, after in pairwise(told))
            job = self.world.job(job_id)
            assert told[-1] is job.status
            assert (job.status is Status.RUNNING) == (job_id in self.holder)
            assert (job.adapter is not None) == (job.status is Status.SUCCEEDED)
            assert 0 <= job.charged <= job.max_attempts
            assert job.attempt == told.count(Status.RUNNING)
            assert job_id not in self.asked or job.status in {Status.RUNNING, Status.CANCELLED}
            assert (job.ended_at is not None) == (job.status in ENDED)

    def status(self, job_id: str) -> Status:
        return self.world.job(job_id).status

    def ended(self, claim: Claim) -> None:
        assert self.holder.pop(claim.job.id) is claim


# 500 walks take longer than the time-out that guards every other test against hanging.
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))


@pytest.mark.parametrize(("examples", "steps"), [(8, 25), pytest.param(500, 50, marks=LONG)])
def test_random_walks_keep_the_protocol(sqlite_databases: SqliteDatabases, examples: int, steps: int) -> None:
    JobMachine.databases = sqlite_databases
    checks = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(JobMachine, settings=checks)
