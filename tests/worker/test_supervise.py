"""One attempt from claim to end: real database, real store, a real process that plays a trainer's script."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.domain.jobs import FailureClass, Job, Phase, Status
from core.services import jobs
from core.storage.objects import Store
from tests.support import workshops
from tests.support.workshops import Workshop
from worker import supervise as supervising
from worker import verdicts
from worker.child import Child, Program
from worker.inputs import Site
from worker.resident import Resident
from worker.shift import Leaving

ROWS = [{"instruction": "问", "input": "", "output": "答"}]
TRAIN = ["until_stopped"]


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str) -> Iterator[Workshop]:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    made = workshops.make(tmp_path / "data", sqlite_url, base_dir=base, rows=ROWS)
    yield made
    made.database.close()


@dataclass
class Stage:
    """A worker around one scripted trainer."""

    shop: Workshop
    resident: Resident
    leaving: Leaving = field(default_factory=Leaving)
    heartbeat_s: float = 0.2
    lease_s: float = 3.0
    stall_s: float = 60.0

    def site(self, **more: Any) -> Site:
        fields: dict[str, Any] = {
            "database": self.shop.database, "store": self.shop.store, "data_dir": self.shop.folder, "device": "cpu",
            "lease_s": self.lease_s, "heartbeat_s": self.heartbeat_s, "stall_s": self.stall_s,
        }  # fmt: skip
        return Site(**(fields | more))

    def play(self, **more: Any) -> None:
        claim = self.shop.claim(lease_s=self.lease_s)
        supervising.supervise(claim, site=self.site(**more), resident=self.resident, stopping=self.leaving)


@contextmanager
def staged(shop: Workshop, *runs: list[Any], **fields: Any) -> Iterator[Stage]:
    argv = (sys.executable, "-m", "tests.support.scripted_trainer", json.dumps(list(runs)))
    resident = Resident(Program(log_path=shop.folder / "logs" / "trainer.log", argv=argv))
    resident.warm_up()
    try:
        yield Stage(shop, resident, **fields)
    finally:
        resident.discard()


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Run something beside the block; its failure is the block's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001  (raised again by the block)
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert not failures


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def training(shop: Workshop, job: Job, *, step: int = 3) -> bool:
    return shop.job(job.id).progress.step >= step


def has_checkpoint(shop: Workshop, job: Job) -> bool:
    return any(event.type == "checkpoint" for event in shop.events(job.id))


def child_of(stage: Stage) -> Child:
    assert stage.resident.child is not None
    return stage.resident.child


def test_a_finished_attempt_registers_one_adapter_and_leaves_no_scratch(shop: Workshop) -> None:
    job = shop.submit(metadata={"team": "a"})
    with staged(shop, [["enter", "training"], ["progress", 5], ["evaluate"], ["checkpoint"], ["finish"]]) as stage:
        stage.play()
        assert child_of(stage).alive()
    ended = shop.job(job.id)
    assert ended.status is Status.SUCCEEDED
    assert ended.adapter is not None
    assert ended.progress.step == 5
    assert shop.adapters() == 1
    assert list((shop.folder / "scratch").iterdir()) == []
    types = [event.type for event in shop.events(job.id)]
    assert types.count("metrics") == 6
    assert types.count("checkpoint") == 1
    assert [event.seq for event in shop.events(job.id)] == list(range(1, len(types) + 1))


def test_the_run_names_what_was_fetched(shop: Workshop) -> None:
    job = shop.submit(system_prompt="你是甄嬛。")
    seen: list[dict[str, Any]] = []
    with staged(shop, [["hang", 1.0], ["finish"]]) as stage:
        folder = shop.folder / "scratch" / f"{job.id}-1"

        def look() -> None:
            wait_until((folder / "output.run.json").exists)
            run = json.loads((folder / "output.run.json").read_text())
            run["dataset_text"] = Path(run["dataset_path"]).read_text()
            run["base_files"] = sorted(path.name for path in Path(run["base_dir"]).iterdir())
            seen.append(run)

        with meanwhile(look):
            stage.play()
    run = seen[0]
    assert run["spec"]["system_prompt"] == "你是甄嬛。"
    assert json.loads(run["dataset_text"]) == ROWS[0]
    assert run["base_files"] == ["config.json"]
    assert run["checkpoint_dir"] is None
    assert run["attempt"] == 1


@pytest.mark.parametrize(
    ("failure_class", "status", "child_lives"),
    [("user_error", Status.FAILED, True), ("nan_loss", Status.FAILED, True), ("oom", Status.QUEUED, False)],
)
def test_a_failure_is_passed_on_by_its_class(
    shop: Workshop, failure_class: str, status: Status, child_lives: bool
) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], ["fail", failure_class]]) as stage:
        stage.play()
        assert (stage.resident.child is not None) is child_lives
    ended = shop.job(job.id)
    assert ended.status is status
    if status is Status.FAILED:
        assert ended.failure is not None
        assert ended.failure.failure_class.value == failure_class
    assert shop.adapters() == 0


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (["die", 9], FailureClass.WORKER_LOST),
        (["die", 11], FailureClass.INFRA),
        (["exit", 64], FailureClass.USER_ERROR),
        (["garbage", "not json"], FailureClass.INFRA),
        (["finish", "completed", "adapter_model.safetensors"], FailureClass.INTEGRITY),
        (["finish_elsewhere"], FailureClass.INFRA),
    ],
)
def test_an_end_without_a_result_is_classified(shop: Workshop, action: list[Any], expected: FailureClass) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], action]) as stage:
        stage.play()
        # The worker is fit for the next job whatever happened.
        assert stage.resident.warm_up().device == "cpu"
    ended = shop.job(job.id)
    assert ended.status is (Status.FAILED if expected is FailureClass.USER_ERROR else Status.QUEUED)
    told = ended.failure.failure_class.value if ended.failure else ended.status_reason
    assert told == expected.value
    assert shop.adapters() == 0


def test_a_cancelled_job_stops_at_its_next_step(shop: Workshop) -> None:
    job = shop.submit()

    def cancel() -> None:
        wait_until(lambda: training(shop, job))
        shop.cancel(job.id)

    with staged(shop, [TRAIN]) as stage, meanwhile(cancel):
        pid = child_of(stage).pid
        stage.play()
        assert child_of(stage).pid == pid
    assert shop.job(job.id).status is Status.CANCELLED
    assert shop.adapters() == 0


def test_a_cancelled_job_is_over_within_two_heartbeats_though_its_trainer_is_deaf(shop: Workshop) -> None:
    job = shop.submit()
    took: list[float] = []

    def cancel() -> None:
        wait_until(lambda: training(shop, job, step=1))
        shop.cancel(job.id)
        asked = time.monotonic()
        wait_until(lambda: shop.job(job.id).status is Status.CANCELLED)
        took.append(time.monotonic() - asked)

    with staged(shop, [["progress", 1], ["ignore_term"], ["hang"]], heartbeat_s=1.0) as stage, meanwhile(cancel):
        child = child_of(stage)
        stage.play()
        assert not child.alive()
    assert took[0] < 2.0 + 2 * supervising.SLICE_S


def test_a_worker_that_leaves_hands_its_job_back_with_a_checkpoint_and_uncharged(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [["until_stopped"]]) as stage:

        def leave() -> None:
            wait_until(lambda: training(shop, job))
            stage.leaving.asked = True

        with meanwhile(leave):
            stage.play()
    waiting = shop.job(job.id)
    assert waiting.status is Status.QUEUED
    assert waiting.status_reason == "preempted"
    assert waiting.charged == 0
    assert has_checkpoint(shop, job)
    with staged(shop, [["progress", 1], ["finish"]]) as stage:
        claim = shop.claim()
        assert claim.resume is not None
        supervising.supervise(claim, site=stage.site(), resident=stage.resident, stopping=stage.leaving)
    assert shop.job(job.id).status is Status.SUCCEEDED
    assert shop.job(job.id).progress.step == claim.resume.step + 1


def test_two_checkpoints_are_kept_and_the_newest_is_resumed_from(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], ["checkpoint"]] * 3 + [["die", 9]]) as stage:
        stage.play()
    with staged(shop, [["progress", 1], ["finish"]]) as stage:
        claim = shop.claim()
        assert claim.resume is not None
        assert claim.resume.step == 3
        supervising.supervise(claim, site=stage.site(), resident=stage.resident, stopping=stage.leaving)
    assert shop.job(job.id).status is Status.SUCCEEDED
    assert shop.job(job.id).progress.step == 4


@pytest.mark.parametrize("harm", ["truncated", "flipped", "absent", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(shop: Workshop, harm: str) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], ["checkpoint"], ["progress", 1], ["checkpoint"], ["die", 9]]) as stage:
        stage.play()
    claim = shop.claim()
    assert claim.resume is not None
    spoil(shop.store, claim.resume.manifest_sha256, harm)
    with staged(shop, [["progress", 1], ["finish"]]) as stage:
        supervising.supervise(claim, site=stage.site(), resident=stage.resident, stopping=stage.leaving)
    assert shop.job(job.id).status is Status.SUCCEEDED
    assert shop.job(job.id).progress.step == 2
    assert any(event.type == "checkpoint" and event.level == "warn" for event in shop.events(job.id))


def spoil(store: Store, manifest_sha256: str, harm: str) -> None:
    assert store.folder is not None
    manifest = store.folder / "sha256" / manifest_sha256
    if harm == "no manifest":
        manifest.unlink()
        return
    state = store.folder / "sha256" / json.loads(manifest.read_text())["files"]["state.json"]["sha256"]
    if harm == "absent":
        state.unlink()
    elif harm == "truncated":
        state.write_bytes(state.read_bytes()[:-1])
    else:
        state.write_bytes(b"\x00" + state.read_bytes()[1:])


def test_a_hanging_trainer_is_stalled_with_its_stack_kept(shop: Workshop) -> None:
    job = shop.submit()
    script = [["progress", 5], ["hang"]]
    with staged(shop, script, stall_s=0.5) as stage:
        stage.play()
        assert stage.resident.child is None
    assert shop.job(job.id).status_reason == "stalled"
    log = (shop.folder / "logs" / "trainer.log").read_text()
    assert "Aborted" in log
    assert "in hang" in log


def test_a_lost_lease_kills_the_trainer_and_writes_nothing_more(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [TRAIN]) as stage:

        def take_over() -> None:
            wait_until(lambda: training(shop, job))
            with shop.database.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE jobs SET attempt = attempt + 1")

        child = child_of(stage)
        with meanwhile(take_over):
            stage.play()
        wait_until(lambda: not child.alive())
        events = len(shop.events(job.id))
        time.sleep(0.5)
        assert len(shop.events(job.id)) == events
    taken = shop.job(job.id)
    assert taken.status is Status.RUNNING
    assert taken.attempt == 2


def test_training_goes_on_while_the_database_is_locked_for_a_while(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 3], ["hang", 2.0], ["progress", 2], ["finish"]], lease_s=30.0) as stage:

        def lock() -> None:
            wait_until(lambda: training(shop, job))
            with shop.database.engine.begin():
                time.sleep(7.0)

        with meanwhile(lock):
            stage.play()
    assert shop.job(job.id).status is Status.SUCCEEDED
    assert shop.job(job.id).progress.step == 5


def test_a_database_that_stays_away_ends_the_attempt_before_its_lease(shop: Workshop) -> None:
    job = shop.submit()
    died: list[float] = []
    with staged(shop, [TRAIN], lease_s=1.5, heartbeat_s=0.3) as stage:
        child = child_of(stage)

        def lock() -> None:
            wait_until(lambda: training(shop, job))
            with shop.database.engine.begin():
                began = time.monotonic()
                wait_until(lambda: not child.alive())
                died.append(time.monotonic() - began)

        with meanwhile(lock):
            stage.play()
    assert died[0] < 1.5
    assert jobs.reap(shop.database) == 0
    wait_until(lambda: jobs.reap(shop.database) == 1)
    assert shop.job(job.id).status is Status.QUEUED
    assert shop.adapters() == 0


def test_a_finish_that_comes_after_a_cancel_registers_nothing(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], ["hang", 1.0], ["finish"]], heartbeat_s=5.0, lease_s=30.0) as stage:

        def cancel() -> None:
            wait_until(lambda: training(shop, job, step=1))
            shop.cancel(job.id)

        with meanwhile(cancel):
            stage.play()
    assert shop.job(job.id).status is Status.CANCELLED
    assert shop.adapters() == 0


def test_a_job_that_is_cancelled_while_it_is_prepared_never_reaches_the_trainer(shop: Workshop) -> None:
    job = shop.submit()
    claim = shop.claim()
    shop.cancel(job.id)
    with staged(shop, [["finish"]]) as stage:
        supervising.supervise(claim, site=stage.site(), resident=stage.resident, stopping=stage.leaving)
    assert shop.job(job.id).status is Status.CANCELLED
    assert shop.adapters() == 0


def test_a_base_whose_bytes_have_rotted_is_an_integrity_failure(shop: Workshop) -> None:
    job = shop.submit()
    assert shop.store.folder is not None
    for path in (shop.store.folder / "sha256").iterdir():
        path.write_bytes(b"rotten")
    with staged(shop, [["finish"]]) as stage:
        stage.play()
    assert shop.job(job.id).status_reason == "integrity"


def test_the_owner_sees_which_phase_the_attempt_is_in(shop: Workshop) -> None:
    job = shop.submit()
    seen: list[Phase] = []

    def look() -> None:
        wait_until(lambda: shop.job(job.id).phase is Phase.TOKENIZING)
        seen.append(shop.job(job.id).phase)

    with staged(shop, [["enter", "tokenizing"], ["hang", 1.0], ["finish"]]) as stage, meanwhile(look):
        stage.play()
    assert seen == [Phase.TOKENIZING]


def test_a_killed_trainer_is_out_of_memory_only_if_the_kernel_counted_a_kill(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "cgroup" / "memory.events"
    events.parent.mkdir()
    events.write_text("oom_kill 0\n")
    monkeypatch.setattr(verdicts, "CGROUPS", events.parent)
    job = shop.submit()
    with staged(shop, [["progress", 1], ["hang"]]) as stage:

        def kill() -> None:
            wait_until(lambda: training(shop, job, step=1))
            events.write_text("oom_kill 1\n")
            child_of(stage).signal(signal.SIGKILL)

        with meanwhile(kill):
            stage.play()
    assert shop.job(job.id).status_reason == "oom"


@pytest.mark.parametrize("leaves", [True, False])
def test_a_wish_is_heard_while_the_base_is_fetched(shop: Workshop, tmp_path: Path, leaves: bool) -> None:
    job = shop.submit()
    assert shop.store.folder is not None
    # Reading a pipe that nobody writes to takes for ever, as a slow store does.
    for path in (shop.store.folder / "sha256").iterdir():
        path.unlink()
        os.mkfifo(path)
    claim = shop.claim()
    with staged(shop, [["finish"]]) as stage:
        began = time.monotonic()
        with meanwhile(lambda: setattr(stage.leaving, "asked", True) if leaves else shop.cancel(job.id)):
            supervising.supervise(claim, site=stage.site(), resident=stage.resident, stopping=stage.leaving)
        assert time.monotonic() - began < 2.0
    assert shop.job(job.id).status is (Status.QUEUED if leaves else Status.CANCELLED)


def test_a_manifest_that_says_nothing_makes_no_adapter(shop: Workshop) -> None:
    job = shop.submit()
    with staged(shop, [["progress", 1], ["finish_unexplained"]]) as stage:
        stage.play()
    assert shop.job(job.id).status_reason == "integrity"
    assert shop.adapters() == 0
