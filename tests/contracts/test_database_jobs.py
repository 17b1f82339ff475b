"""The job protocol on both databases: submit, claim, lease, fence, end."""

from dataclasses import replace
from itertools import product

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.db.clocks import LeaseClock
from core.db.jobs import Move
from core.db.transactions import Database, connect, snapshot, transaction
from core.domain.adapters import NameTaken
from core.domain.bases import BaseNotFound
from core.domain.datasets import DatasetNotFound, DatasetNotReady, InvalidDataset
from core.domain.jobs import (
    MAX_REFUNDS,
    NEXT,
    RETRIES,
    AttemptLost,
    Claim,
    Failure,
    FailureClass,
    IllegalMove,
    Job,
    JobAlreadyFinished,
    JobCancelled,
    JobNotFound,
    Phase,
    Status,
)
from core.domain.keys import Role, RoleTooLow
from core.domain.pages import Filters, InvalidFilter, UnknownCursor
from core.domain.training import Checkpointed, Evaluated, InvalidSpec, TrainSpec
from core.services import jobs, submissions, workers
from core.services.idempotency import KeyReused
from tests.support.worlds import (
    LEASE_S,
    POLICY,
    World,
    a_base,
    a_caller,
    a_dataset,
    a_new_adapter,
    a_progress,
    a_worker,
)


def a_failure(kind: FailureClass) -> Failure:
    return Failure(code=kind.value, message="It broke.", failure_class=kind)


def in_status(world: World, status: Status) -> Job:
    """A job that has come to this status by the ordinary ways."""
    job = world.submit()
    if status is Status.QUEUED:
        return job
    held = world.claim()
    if status is Status.RUNNING:
        return world.job(job.id)
    if status is Status.SUCCEEDED:
        jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
    elif status is Status.FAILED:
        jobs.fail(held, a_failure(FailureClass.USER_ERROR), database=world.database)
    elif status is Status.CANCELLED:
        jobs.release(held, to=Status.CANCELLED, database=world.database)
    else:
        jobs.release(held, to=Status.PAUSED, database=world.database)
    return world.job(job.id)


def clear(world: World) -> None:
    """Take what still waits out of the way."""
    for status in ("queued", "paused"):
        for job in jobs.listing(Filters(status=status), caller=world.caller, database=world.database).data:
            jobs.cancel(job.id, caller=world.caller, database=world.database)


class TestSubmit:
    def test_a_job_keeps_what_was_sent_and_what_it_means(self, world: World) -> None:
        woken: list[str] = []
        job = world.submitted(woken=woken, name="persona", r=4, metadata={"team": "search"}).job
        assert job.status is Status.QUEUED
        assert '"r":4' in job.spec_sent
        assert "learning_rate" not in job.spec_sent
        resolved = TrainSpec.model_validate_json(job.spec_resolved)
        assert (resolved.dataset, resolved.base_model, resolved.max_length) == (world.dataset.id, "nano", 2048)
        assert job.metadata == {"team": "search"}
        assert woken == [job.id]
        assert world.statuses(job.id) == ["queued"]
        with transaction(world.database) as tx:
            assert [message.job_id for message in tx.outbox.unsent(10)] == [job.id]

    def test_a_name_means_the_newest_version_for_good(self, world: World) -> None:
        newer = a_dataset(world.database, world.caller)
        assert (world.submit(dataset="rows").dataset_id, newer.version) == (newer.id, 2)
        assert world.submit(dataset="rows@1").dataset_id == world.dataset.id

    def test_an_unknown_data_set_is_named(self, world: World) -> None:
        for reference in ("ds_00000000000000000000000000", "nothing", "rows@9", "rows\0", "@@"):
            with pytest.raises(DatasetNotFound) as caught:
                world.submit(dataset=reference)
            assert caught.value.param == "dataset"

    def test_a_data_set_of_another_project_is_unknown(self, world: World) -> None:
        with pytest.raises(DatasetNotFound):
            world.submit(caller=a_caller(world.database, project="other"))

    def test_a_data_set_must_be_ready(self, world: World) -> None:
        with pytest.raises(DatasetNotReady):
            world.submit(dataset=a_dataset(world.database, world.caller, name="late", status="processing").id)
        spec = TrainSpec(dataset="late", name="planned")
        with pytest.raises(DatasetNotReady), snapshot(world.database) as tx:
            submissions.resolve(tx, spec, caller=world.caller, policy=POLICY, holds=False)
        with pytest.raises(InvalidDataset):
            world.submit(validation_dataset=a_dataset(world.database, world.caller, name="bad", status="invalid").id)

    def test_an_unknown_base_names_those_there_are(self, world: World) -> None:
        with pytest.raises(BaseNotFound, match="nano"):
            world.submit(base_model="Qwen")

    def test_with_several_bases_one_must_be_named(self, world: World) -> None:
        big = a_base(world.database, name="BlueLM-7B-Chat")
        with pytest.raises(BaseNotFound, match="BlueLM-7B-Chat"):
            world.submit()
        assert world.submit(base_model="BlueLM-7B-Chat").base_id == big.id
        chosen = world.submitted(policy=replace(POLICY, default_base="nano"))
        assert chosen.job.base_id == world.base.id

    def test_an_adapter_is_never_called_like_a_base(self, world: World) -> None:
        a_base(world.database, name="BlueLM-7B-Chat")
        for name in ("nano", "bluelm-7b-chat"):
            with pytest.raises(NameTaken):
                world.submit(name=name, base_model="nano")

    def test_limits_of_the_deployment_hold(self, world: World) -> None:
        with pytest.raises(InvalidSpec):
            world.submit(r=128)

    def test_what_postgresql_can_not_store_is_refused_at_the_door(self) -> None:
        for fields in ({"metadata": {"a\0": "b"}}, {"metadata": {"a": "\0"}}, {"system_prompt": "a\0b"}):
            with pytest.raises(ValidationError, match="NUL"):
                TrainSpec.model_validate({"dataset": "rows", "name": "persona"} | fields)

    def test_only_admins_jump_the_queue(self, world: World) -> None:
        with pytest.raises(RoleTooLow):
            world.submit(priority=1)
        admin = a_caller(world.database, role=Role.ADMIN)
        assert world.submit(caller=admin, priority=1).priority == 1

    def test_a_full_queue_is_said_and_nothing_is_stored(self, world: World) -> None:
        narrow = replace(POLICY, max_queued_jobs=1)
        world.submitted(policy=narrow)
        with pytest.raises(jobs.TooManyJobs) as caught:
            world.submitted(policy=narrow, key="again")
        assert caught.value.retry_after_s
        assert len(jobs.listing(Filters(), caller=world.caller, database=world.database).data) == 1
        assert world.submitted(key="again").replayed is False

    def test_the_same_key_gives_the_same_job(self, world: World) -> None:
        first = world.submitted(key="k1")
        again = world.submitted(key="k1")
        assert (again.job.id, again.replayed, first.replayed) == (first.job.id, True, False)
        with pytest.raises(KeyReused):
            world.submitted(key="k1", r=4)
        other = a_caller(world.database, project="other")
        theirs = a_dataset(world.database, other)
        assert world.submitted(key="k1", caller=other, dataset=theirs.id).replayed is False


class TestLists:
    def test_pages_are_newest_first_and_end(self, world: World) -> None:
        made = [world.submit().id for _ in range(5)]
        first = jobs.listing(Filters(limit=2), caller=world.caller, database=world.database)
        assert ([job.id for job in first.data], first.has_more) == ([made[4], made[3]], True)
        rest = jobs.listing(Filters(limit=9, after=made[3]), caller=world.caller, database=world.database)
        assert ([job.id for job in rest.data], rest.has_more) == ([made[2], made[1], made[0]], False)

    def test_metadata_finds_jobs_whatever_its_keys_hold(self, world: World) -> None:
        for key in ("team", 'we"ird', "a.b", "键", "$"):
            mine = world.submit(metadata={key: "x", "other": "y"})
            world.submit(metadata={key: "z"})
            asked = Filters(metadata={key: "x", "other": "y"})
            found = jobs.listing(asked, caller=world.caller, database=world.database)
            assert [job.id for job in found.data] == [mine.id]

    def test_filters_narrow(self, world: World) -> None:
        one, two = world.submit(name="one"), world.submit(name="two")
        jobs.cancel(one.id, caller=world.caller, database=world.database)

        def found(**asked: object) -> list[str]:
            filters = Filters(**asked)  # type: ignore[arg-type]
            return [job.id for job in jobs.listing(filters, caller=world.caller, database=world.database).data]

        assert found(name="two") == [two.id]
        assert found(status="cancelled") == [one.id]
        assert found(created_after=two.created_at) == []
        assert found(created_after=two.created_at - 60) == [two.id, one.id]

    def test_impossible_filters_are_refused(self, world: World) -> None:
        with pytest.raises(InvalidFilter):
            jobs.listing(Filters(status="asleep"), caller=world.caller, database=world.database)
        with pytest.raises(UnknownCursor):
            jobs.listing(Filters(after="ds_00000000000000000000000000"), caller=world.caller, database=world.database)
        with pytest.raises(InvalidFilter):
            Filters(name="a\0b")

    def test_pausing_is_running_with_a_request(self, world: World) -> None:
        job = world.submit()
        world.claim()
        with world.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET pause_requested_at = 1"))
        assert world.job(job.id).shown_status == "pausing"
        pausing = jobs.listing(Filters(status="pausing"), caller=world.caller, database=world.database)
        running = jobs.listing(Filters(status="running"), caller=world.caller, database=world.database)
        assert ([found.id for found in pausing.data], running.data) == ([job.id], ())

    def test_jobs_of_others_are_not_there(self, world: World) -> None:
        job = world.submit()
        other = a_caller(world.database, project="other")
        for ask in (jobs.get, jobs.cancel, jobs.events, jobs.metrics):
            with pytest.raises(JobNotFound):
                ask(job.id, caller=other, database=world.database)
            with pytest.raises(JobNotFound):
                ask("job_\0", caller=world.caller, database=world.database)
        assert jobs.listing(Filters(), caller=other, database=world.database).data == ()


class TestClaim:
    def test_a_claim_counts_and_holds(self, world: World) -> None:
        job = world.submit()
        held = world.claim()
        assert (held.job.id, held.attempt, held.job.status) == (job.id, 1, Status.RUNNING)
        assert world.try_claim() is None
        assert world.statuses(job.id) == ["queued", "running"]

    def test_priority_comes_first_then_the_idle_project_then_age(self, world: World) -> None:
        busy, idle = world.caller, a_caller(world.database, project="idle")
        theirs = a_dataset(world.database, idle)
        admin = replace(busy, role=Role.ADMIN)
        running = world.submit()
        assert world.claim().job.id == running.id
        old = world.submit()
        late = world.submit(caller=idle, dataset=theirs.id)
        unimportant = world.submit(caller=idle, dataset=theirs.id, priority=-1)
        urgent = world.submit(caller=admin, priority=5)
        order = [world.claim().job.id for _ in range(4)]
        assert order == [urgent.id, late.id, old.id, unimportant.id]

    def test_a_small_worker_passes_over_what_does_not_fit(self, world: World) -> None:
        a_base(world.database, name="big", parameters=7_000_000_000)
        big = world.submit(base_model="big")
        small = world.submit(base_model="nano")
        little = a_worker(memory_bytes=2**30)
        assert world.claim(little).job.id == small.id
        assert world.try_claim(little) is None
        gpu = a_worker(memory_bytes=16 * 2**30, capabilities=("cuda", "bf16"))
        assert world.claim(gpu).job.id == big.id

    def test_a_job_without_a_capable_worker_says_so(self, world: World) -> None:
        job = world.submit(base_model="nano")
        assert world.job(job.id).status_reason == "no_capable_worker"
        workers.register(a_worker(memory_bytes=1000), database=world.database)
        workers.register(a_worker(draining=True), database=world.database)
        assert world.job(job.id).status_reason == "no_capable_worker"
        able = a_worker()
        workers.register(able, database=world.database)
        assert world.job(job.id).status_reason is None
        with world.database.engine.begin() as connection:
            connection.execute(text("UPDATE workers SET last_seen = last_seen - 100"))
        assert world.job(job.id).status_reason == "no_capable_worker"

    def test_a_delayed_job_waits_and_is_then_called_runnable(self, world: World) -> None:
        job = world.submit()
        jobs.fail(world.claim(), a_failure(FailureClass.INFRA), database=world.database)
        assert world.try_claim() is None
        assert jobs.runnable(world.database, older_than_s=0) == []
        with world.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET not_before = not_before - 100"))
        assert jobs.runnable(world.database, older_than_s=10) == [job.id]
        assert jobs.runnable(world.database, older_than_s=1000) == []
        assert world.claim().attempt == 2


class TestLease:
    def test_a_beat_renews_and_brings_the_wish(self, world: World) -> None:
        job = world.submit()
        held = world.claim(lease_s=-1)
        assert jobs.beat(held, database=world.database, lease_s=LEASE_S, phase=Phase.LOADING) == "go_on"
        assert jobs.reap(world.database) == 0
        jobs.cancel(job.id, caller=world.caller, database=world.database)
        assert jobs.beat(held, database=world.database, lease_s=LEASE_S) == "cancel"
        assert world.job(job.id).shown_phase is Phase.CANCELLING

    def test_a_lost_lease_requeues_the_job(self, world: World) -> None:
        job = world.submit()
        lost = world.claim(lease_s=-1)
        assert jobs.reap(world.database) == 1
        assert jobs.reap(world.database) == 0
        assert world.job(job.id).status is Status.QUEUED
        again = world.claim()
        assert again.attempt == 2
        for write in (
            lambda: jobs.beat(lost, database=world.database, lease_s=LEASE_S),
            lambda: jobs.enter(lost, Phase.TRAINING, database=world.database, lease_s=LEASE_S),
            lambda: jobs.record(lost, a_progress(), database=world.database, lease_s=LEASE_S),
            lambda: jobs.record(lost, a_checkpoint(10), database=world.database, lease_s=LEASE_S),
            lambda: jobs.prune(lost, database=world.database, lease_s=LEASE_S),
            lambda: jobs.fail(lost, a_failure(FailureClass.INFRA), database=world.database),
            lambda: jobs.release(lost, to=Status.QUEUED, database=world.database),
            lambda: jobs.succeed(lost, adapter=a_new_adapter(), reason="completed", database=world.database),
        ):
            before = (world.job(job.id), world.statuses(job.id))
            with pytest.raises(AttemptLost):
                write()
            assert (world.job(job.id), world.statuses(job.id)) == before

    def test_a_job_that_kills_its_workers_stops_at_the_cap(self, world: World) -> None:
        job = world.submit()
        for _ in range(4):
            world.claim(lease_s=-1)
            assert jobs.reap(world.database) == 1
        ended = world.job(job.id)
        assert ended.status is Status.FAILED
        assert ended.failure is not None
        assert ended.failure.code == "worker_lost"
        assert world.try_claim() is None
        assert world.statuses(job.id) == ["queued", *["running", "queued"] * 3, "running", "failed"]

    def test_a_reaped_job_goes_where_its_owner_asked(self, world: World) -> None:
        to_cancel, to_pause = world.submit(), world.submit()
        world.claim(lease_s=-1)
        world.claim(lease_s=-1)
        jobs.cancel(to_cancel.id, caller=world.caller, database=world.database)
        with world.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET pause_requested_at = 1 WHERE id = :id"), {"id": to_pause.id})
        assert jobs.reap(world.database) == 2
        assert world.job(to_cancel.id).status is Status.CANCELLED
        paused = world.job(to_pause.id)
        assert (paused.status, paused.pause_requested_at) == (Status.PAUSED, None)

    def test_progress_metrics_and_events_are_kept(self, world: World) -> None:
        job = world.submit()
        held = world.claim()
        jobs.enter(held, Phase.TOKENIZING, "Counting tokens.", database=world.database, lease_s=LEASE_S)
        jobs.record(held, a_progress(10), database=world.database, lease_s=LEASE_S)
        jobs.record(held, Evaluated(step=10, epoch=0.1, eval_loss=2.0), database=world.database, lease_s=LEASE_S)
        jobs.record(held, a_progress(20, loss=float("nan")), database=world.database, lease_s=LEASE_S)
        seen = world.job(job.id)
        assert (seen.phase, seen.progress.step, seen.progress.loss) == (Phase.TRAINING, 20, None)
        measured = jobs.metrics(job.id, caller=world.caller, database=world.database)
        assert [(metric.step, metric.loss, metric.eval_loss) for metric in measured] == [
            (10, 2.5, None),
            (10, None, 2.0),
            (20, None, None),
        ]
        page = jobs.events(job.id, caller=world.caller, database=world.database, after_seq=2, limit=2)
        assert ([event.seq for event in page.data], page.has_more) == ([3, 4], True)
        assert page.data[0].message == "Counting tokens."


def a_checkpoint(step: int) -> Checkpointed:
    return Checkpointed(step=step, path="/somewhere", manifest_sha256="0" * 64, bytes=100)


class TestCheckpoints:
    def test_a_claim_resumes_from_the_furthest_good_one(self, world: World) -> None:
        job = world.submit()
        held = world.claim(lease_s=-1)
        assert held.resume is None
        for step in (10, 20):
            jobs.record(held, a_progress(step, trained_tokens=100 * step), database=world.database, lease_s=-1)
            jobs.record(held, a_checkpoint(step), database=world.database, lease_s=-1)
            jobs.record(held, a_checkpoint(step), database=world.database, lease_s=-1)
        jobs.reap(world.database)
        again = world.claim()
        assert again.resume is not None
        assert again.resume.step == 20
        before = jobs.reject_checkpoint(again, again.resume, database=world.database, lease_s=LEASE_S)
        assert before is not None
        assert before.step == 10
        assert jobs.reject_checkpoint(again, before, database=world.database, lease_s=LEASE_S) is None
        told = jobs.events(job.id, caller=world.caller, database=world.database).data
        assert [event.level for event in told if event.type == "checkpoint"] == ["info", "info", "warn", "warn"]

    def test_two_are_kept(self, world: World) -> None:
        world.submit()
        held = world.claim()
        for step in (10, 20, 30):
            jobs.record(held, a_checkpoint(step), database=world.database, lease_s=LEASE_S)
        assert [old.step for old in jobs.prune(held, database=world.database, lease_s=LEASE_S)] == [10]
        assert jobs.prune(held, database=world.database, lease_s=LEASE_S) == ()

    def test_the_ledger_counts_each_attempts_own_tokens_and_seconds(self, world: World) -> None:
        world.submit()
        held = world.claim(lease_s=-1)
        jobs.record(held, a_progress(10, trained_tokens=1000), database=world.database, lease_s=-1)
        jobs.record(held, a_checkpoint(10), database=world.database, lease_s=-1)
        jobs.record(held, a_progress(20, trained_tokens=2000), database=world.database, lease_s=-1)
        jobs.reap(world.database)
        again = world.claim()
        jobs.record(again, a_progress(20, trained_tokens=2000), database=world.database, lease_s=LEASE_S)
        jobs.succeed(again, adapter=a_new_adapter(), reason="completed", trained_tokens=3000, database=world.database)
        with world.database.engine.begin() as connection:
            rows = connection.execute(
                text("SELECT outcome, trained_tokens, resumed_step, gpu_seconds FROM attempts ORDER BY number")
            ).all()
        assert [tuple(row[:3]) for row in rows] == [("worker_lost", 2000, None), ("succeeded", 2000, 10)]
        assert all(0 < row.gpu_seconds < 60 for row in rows)
        with snapshot(world.database) as tx:
            speeds = tx.attempts.speeds(world.base.id, at_most=20)
            assert speeds == pytest.approx([2000 / row.gpu_seconds for row in reversed(rows)])
            assert tx.attempts.speeds(world.base.id, at_most=1) == speeds[:1]
            assert tx.attempts.speeds("base_other", at_most=20) == ()


class TestEnds:
    def test_every_pair_of_statuses_moves_as_the_table_says(self, world: World) -> None:
        for before, after in product(Status, Status):
            job = in_status(world, before)
            told = world.statuses(job.id)
            with transaction(world.database) as tx:
                if after in NEXT[before] and after is not Status.RUNNING:
                    assert tx.jobs.move(job, Move(to=after, message="moved")).status is after
                    told.append(after.value)
                else:
                    with pytest.raises(IllegalMove):
                        tx.jobs.move(job, Move(to=after, message="moved"))
            assert world.statuses(job.id) == told
            clear(world)

    def test_success_makes_one_adapter_with_the_next_version(self, world: World) -> None:
        for version in (1, 2):
            job = world.submit(metadata={"team": "search"})
            adapter = jobs.succeed(
                world.claim(), adapter=a_new_adapter(), reason="early_stopped", database=world.database
            )
            ended = world.job(job.id)
            assert (adapter.reference, adapter.job_id, adapter.kind) == (f"persona@{version}", job.id, "final")
            assert adapter.metadata == {"team": "search"}
            assert (ended.status, ended.status_reason, ended.adapter and ended.adapter.id) == (
                Status.SUCCEEDED,
                "early_stopped",
                adapter.id,
            )
            assert ended.ended_at is not None
            assert world.statuses(job.id) == ["queued", "running", "succeeded"]

    def test_a_job_never_has_two_final_adapters(self, world: World) -> None:
        world.submit()
        adapter = jobs.succeed(world.claim(), adapter=a_new_adapter(), reason="completed", database=world.database)
        with pytest.raises(IntegrityError), transaction(world.database) as tx:
            tx.adapters.add(replace(adapter, id="ad_other", version=2))

    def test_a_second_success_is_fenced_out(self, world: World) -> None:
        world.submit()
        held = world.claim()
        jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
        with pytest.raises(AttemptLost):
            jobs.succeed(held, adapter=a_new_adapter("other"), reason="completed", database=world.database)

    def test_a_cancel_that_was_committed_first_wins_over_success(self, world: World) -> None:
        job = world.submit()
        held = world.claim()
        jobs.cancel(job.id, caller=world.caller, database=world.database)
        with pytest.raises(JobCancelled):
            jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=world.database)
        ended = world.job(job.id)
        assert (ended.status, ended.adapter) == (Status.CANCELLED, None)

    def test_a_success_that_was_committed_first_wins_over_cancel(self, world: World) -> None:
        job = in_status(world, Status.SUCCEEDED)
        with pytest.raises(JobAlreadyFinished):
            jobs.cancel(job.id, caller=world.caller, database=world.database)

    def test_cancelling_twice_is_the_same_as_once(self, world: World) -> None:
        queued = world.submit()
        jobs.cancel(queued.id, caller=world.caller, database=world.database)
        assert jobs.cancel(queued.id, caller=world.caller, database=world.database).status is Status.CANCELLED
        running = world.submit()
        held = world.claim()
        first = jobs.cancel(running.id, caller=world.caller, database=world.database)
        assert jobs.cancel(running.id, caller=world.caller, database=world.database) == first
        jobs.release(held, to=Status.CANCELLED, database=world.database)
        assert world.statuses(running.id) == ["queued", "running", "cancelled"]
        paused = in_status(world, Status.PAUSED)
        assert jobs.cancel(paused.id, caller=world.caller, database=world.database).status is Status.CANCELLED

    @pytest.mark.parametrize("kind", [FailureClass.USER_ERROR, FailureClass.NAN_LOSS])
    def test_faults_of_the_job_are_not_tried_again(self, world: World, kind: FailureClass) -> None:
        world.submit()
        ended = jobs.fail(world.claim(), a_failure(kind), database=world.database)
        assert (ended.status, ended.failure) == (Status.FAILED, a_failure(kind))

    @pytest.mark.parametrize("kind", [FailureClass.OOM, FailureClass.STALLED, FailureClass.INFRA])
    def test_other_faults_are_tried_again_as_often_as_their_class_says(self, world: World, kind: FailureClass) -> None:
        world.submit()
        for _ in range(RETRIES[kind].retries):
            waiting = jobs.fail(world.claim(), a_failure(kind), database=world.database)
            assert (waiting.status, waiting.status_reason) == (Status.QUEUED, kind.value)
            with world.database.engine.begin() as connection:
                connection.execute(text("UPDATE jobs SET not_before = 0"))
        assert jobs.fail(world.claim(), a_failure(kind), database=world.database).status is Status.FAILED

    def test_a_full_disk_is_waited_out_without_charge(self, world: World) -> None:
        job = world.submit()
        for _ in range(10):
            waiting = jobs.fail(world.claim(), a_failure(FailureClass.DISK_FULL), database=world.database)
            assert waiting.charged == 0
            with world.database.engine.begin() as connection:
                connection.execute(text("UPDATE jobs SET not_before = 0"))
        assert world.job(job.id).status is Status.QUEUED

    def test_a_worker_that_leaves_is_not_charged_to_the_job(self, world: World) -> None:
        job = world.submit()
        for _ in range(6):
            released = jobs.release(world.claim(), to=Status.QUEUED, database=world.database)
            assert (released.status, released.charged) == (Status.QUEUED, 0)
        with world.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET refunds = :most"), {"most": MAX_REFUNDS})
        for _ in range(3):
            assert jobs.release(world.claim(), to=Status.QUEUED, database=world.database).status is Status.QUEUED
        ended = jobs.release(world.claim(), to=Status.QUEUED, database=world.database)
        assert (ended.status, ended.id) == (Status.FAILED, job.id)

    def test_a_failure_after_a_request_to_cancel_ends_cancelled(self, world: World) -> None:
        for end in ("fail", "release"):
            job = world.submit()
            held = world.claim()
            jobs.cancel(job.id, caller=world.caller, database=world.database)
            if end == "fail":
                ended = jobs.fail(held, a_failure(FailureClass.INFRA), database=world.database)
            else:
                ended = jobs.release(held, to=Status.QUEUED, database=world.database)
            assert ended.status is Status.CANCELLED


def test_what_is_kept_for_a_day_goes_after_it(world: World) -> None:
    first = world.submitted(key="k1").job
    jobs.tidy(world.database)
    assert world.submitted(key="k1").job.id == first.id
    day = 24 * 3600 + 10
    with world.database.engine.begin() as connection:
        for table in ("idempotency", "outbox"):
            connection.execute(text(f"UPDATE {table} SET created_at = created_at - {day}"))
    assert world.submitted(key="k1", r=4).replayed is False
    with transaction(world.database) as tx:
        assert len(tx.outbox.unsent(10)) == 2
    jobs.tidy(world.database)
    with transaction(world.database) as tx:
        assert len(tx.outbox.unsent(10)) == 1


def test_usage_adds_up(world: World) -> None:
    with transaction(world.database) as tx:
        for adapter_id in ("ad_1", "ad_1", None):
            tx.usage.add(
                day="2026-01-31",
                project_id=world.caller.project_id,
                key_id=world.caller.key_id,
                adapter_id=adapter_id,
                prompt_tokens=10,
                completion_tokens=5,
            )
    with world.database.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT adapter_id, requests, prompt_tokens, completion_tokens FROM usage ORDER BY adapter_id")
        ).all()
    assert [tuple(row) for row in rows] == [("", 1, 10, 5), ("ad_1", 2, 20, 10)]


def test_after_a_reboot_every_lease_has_run_out(sqlite_url: str) -> None:
    before = connect(sqlite_url)
    world = World.of(before)
    job, delayed = world.submit(), world.submit()
    held: Claim = world.claim(lease_s=1e9)
    jobs.fail(world.claim(), a_failure(FailureClass.INFRA), database=before)
    after = Database(engine=before.engine, lease_clock=LeaseClock(boot_id="another boot"))
    assert jobs.reap(after) == 1
    assert set(jobs.runnable(after, older_than_s=0)) == {job.id, delayed.id}
    with pytest.raises(AttemptLost):
        jobs.beat(held, database=after, lease_s=LEASE_S)
    before.close()
