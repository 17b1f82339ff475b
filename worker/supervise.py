"""One claimed attempt seen from outside: the trainer's replies become services, the owner's wishes become Stops.

The lease is the leash: whatever happens, nothing is written once it is lost, and the trainer is killed.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, Literal, assert_never

from core.domain.jobs import AttemptLost, Claim, Failure, FailureClass, JobCancelled, Status, Wish
from core.domain.training import Checkpointed, Evaluated, Progress, TrainingEvent
from core.errors import Problem
from core.services import jobs
from worker import inputs, messages, outputs, scratch, verdicts
from worker.child import Child, ChildGarbled, ChildGone
from worker.inputs import Site
from worker.leases import AWAY, RETRY_S, Lease
from worker.pulses import Pulse
from worker.resident import Resident

log = logging.getLogger(__name__)

SLICE_S: Final = 0.25
DEAF_S: Final = 30.0
ABORT_GRACE_S: Final = 5.0
# After these the device or its memory can't be trusted any more.
SPOILT: Final = frozenset({FailureClass.OOM, FailureClass.INFRA, FailureClass.STALLED, FailureClass.WORKER_LOST})

Ending = messages.Finished | messages.Stopped | Failure


def supervise(claim: Claim, *, site: Site, resident: Resident, stopping: Callable[[], bool]) -> None:
    """See one attempt through to the end that the database is told, or to the loss of its lease.

    Args:
        claim: What this worker holds.
        site: Where it runs.
        resident: Lends the trainer.
        stopping: Whether this worker has been asked to leave; the attempt is then handed back.
    """
    lease = Lease(
        lambda: jobs.beat(claim, database=site.database, lease_s=site.lease_s),
        lease_s=site.lease_s,
        heartbeat_s=site.heartbeat_s,
        on_lost=resident.strike,
    )
    with lease, scratch.folder(site.scratch, f"{claim.job.id}-{claim.attempt}") as folder:
        try:
            Attempt(claim, site=site, resident=resident, lease=lease, stopping=stopping).run(folder)
        except JobCancelled:
            log.info("%s was cancelled first", claim.job.id)
        except AttemptLost as lost:
            log.warning("attempt %d of %s ends unsaid: %s", claim.attempt, claim.job.id, lost)
            resident.discard()


class Attempt:
    """The state of one attempt while its trainer works."""

    def __init__(
        self, claim: Claim, *, site: Site, resident: Resident, lease: Lease, stopping: Callable[[], bool]
    ) -> None:
        self._claim = claim
        self._site = site
        self._resident = resident
        self._lease = lease
        self._stopping = stopping
        self._pulse = Pulse(site.stall_s, now=time.monotonic())
        self._unsaid: deque[Progress | Evaluated | messages.Entered] = deque()
        self._say_at = 0.0
        self._asked: Wish = "go_on"
        self._asked_at = 0.0
        self._step = 0
        self._deaf = False

    def run(self, folder: Path) -> None:
        """Prepare, watch, conclude.

        Raises:
            AttemptLost: The lease is gone; nothing more may be written.
        """
        try:
            ending = self._train(folder)
            if isinstance(ending, messages.Finished):
                self._publish(ending, folder)
                return
        except AttemptLost:
            raise
        except (Problem, OSError) as error:
            log.exception("attempt %d of %s failed outside the trainer", self._claim.attempt, self._claim.job.id)
            ending = verdicts.of_error(error)
        self._conclude(ending)

    def _train(self, folder: Path) -> Ending:
        run = self._prepare(folder)
        if isinstance(run, messages.Stopped):
            return run
        child = self._resident.for_base(run.base_fingerprint)
        if early := self._leaving():
            return early
        kills = verdicts.oom_kills()
        self._pulse.turn(time.monotonic())
        try:
            child.send(run)
            return self._watch(child, folder)
        except ChildGone as gone:
            self._lease.check()
            log.warning("the trainer ended with code %d", gone.returncode)
            return verdicts.of_exit(gone.returncode, oom_kills_rose=verdicts.oom_kills() > kills)
        except ChildGarbled as garbled:
            log.error("%s", garbled)  # noqa: TRY400  (a traceback of ours says nothing about the trainer)
            return verdicts.garbled()

    def _prepare(self, folder: Path) -> messages.Run | messages.Stopped:
        """Prepare on another thread: a base can take minutes to fetch, and a wish shall be heard meanwhile.

        A thread that is left behind ends by itself; what it brought into the cache is of use.
        """
        prepared: Future[messages.Run] = Future()

        def work() -> None:
            try:
                prepared.set_result(inputs.prepare(self._claim, folder, site=self._site, lease=self._lease))
            except BaseException as error:  # noqa: BLE001  (handed to the main thread, whole)
                prepared.set_exception(error)

        threading.Thread(target=work, name="prepare", daemon=True).start()
        while not futures.wait([prepared], timeout=SLICE_S).done:
            self._lease.check()
            if early := self._leaving():
                return early
        return prepared.result()

    def _watch(self, child: Child, folder: Path) -> Ending:
        while True:
            reply = child.receive(SLICE_S)
            self._lease.check()
            ending = self._hear(reply, folder) if reply else None
            if ending is None:
                self._say()
                self._ask(child)
                ending = self._lose_patience(child)
            if ending is not None:
                return ending

    def _hear(self, reply: messages.Reply, folder: Path) -> Ending | None:
        now = time.monotonic()
        match reply:
            case messages.Entered():
                self._pulse.turn(now)
                self._unsaid.append(reply)
            case messages.Stepped(step=step):
                self._pulse.step(now, step)
                self._step = step
            case messages.Told(event=event):
                self._learn(event, now, folder)
            case messages.Finished() | messages.Stopped():
                return reply
            case messages.Failed(failure=failure):
                return failure
            case messages.Ready():
                raise ChildGarbled("the trainer got ready twice")
            case _:
                assert_never(reply)
        return None

    def _learn(self, event: TrainingEvent, now: float, folder: Path) -> None:
        match event:
            case Checkpointed():
                self._keep(event, folder)
                self._pulse.turn(time.monotonic())
            case Progress():
                self._pulse.step(now, event.step)
                self._step = event.step
                self._unsaid.append(event)
            case Evaluated():
                self._pulse.turn(now)
                self._unsaid.append(event)
            case _:
                assert_never(event)

    def _say(self) -> None:
        """Tell the database what has been heard; what it does not take now is kept for later."""
        while self._unsaid and time.monotonic() >= self._say_at:
            try:
                self._lease.through(partial(self._record, self._unsaid[0]))
            except AWAY as error:
                log.warning("the database is away, training goes on: %s", error)
                self._say_at = time.monotonic() + RETRY_S
            else:
                self._unsaid.popleft()

    def _record(self, heard: Progress | Evaluated | messages.Entered) -> Wish:
        database, lease_s = self._site.database, self._site.lease_s
        if isinstance(heard, messages.Entered):
            return jobs.enter(self._claim, heard.phase, heard.message, database=database, lease_s=lease_s)
        return jobs.record(self._claim, heard, database=database, lease_s=lease_s)

    def _keep(self, event: Checkpointed, folder: Path) -> None:
        """Store a checkpoint, then make it visible. One that can't be stored is a loss of time only."""
        try:
            outputs.store_checkpoint(event, folder, store=self._site.store)
        except (Problem, OSError) as error:
            if isinstance(error, ChildGarbled):
                raise
            log.exception("checkpoint %d of %s could not be stored", event.step, self._claim.job.id)
            return
        self._lease.persist(
            lambda: jobs.add_checkpoint(self._claim, event, database=self._site.database, lease_s=self._site.lease_s)
        )
        outputs.drop(event, folder)
        self._lease.persist(lambda: jobs.prune(self._claim, database=self._site.database, lease_s=self._site.lease_s))

    def _ask(self, child: Child) -> None:
        """Pass a new wish on: the owner's, or that of whoever stops this worker."""
        wish = self._lease.wish
        if wish != "cancel" and self._stopping():
            wish = "pause"
        if wish in {"go_on", self._asked} or self._asked == "cancel":
            return
        child.send(messages.Stop(wish=wish))
        self._asked, self._asked_at = wish, time.monotonic()

    def _leaving(self) -> messages.Stopped | None:
        """Say whether there is no use in starting the trainer."""
        if self._lease.wish == "cancel":
            return self._stopped("cancel")
        return self._stopped("pause") if self._lease.wish == "pause" or self._stopping() else None

    def _stopped(self, wish: Literal["cancel", "pause"]) -> messages.Stopped:
        return messages.Stopped(wish=wish, step=self._step, trained_tokens=0)

    def _lose_patience(self, child: Child) -> Ending | None:
        now = time.monotonic()
        waited = now - self._asked_at
        if self._asked == "cancel" and waited > min(self._site.heartbeat_s, DEAF_S):
            self._deaf = True
            # The owner is told now; whether the trainer comes round is our own business (`_wind_down`).
            return self._stopped("cancel")
        if self._asked == "pause" and self._stopping() and waited > DEAF_S:
            self._resident.discard()
            return self._stopped("pause")
        if self._pulse.overdue(now):
            child.signal(signal.SIGABRT)
            child.ends_within(ABORT_GRACE_S)
            return verdicts.stalled(self._pulse.limit_s())
        return None

    def _publish(self, finished: messages.Finished, folder: Path) -> None:
        if self._lease.wish == "cancel":
            self._conclude(self._stopped("cancel"))
            return
        adapter = outputs.store_adapter(finished.bundle_dir, folder, store=self._site.store)
        self._settle()
        self._lease.conclude(
            lambda: jobs.succeed(
                self._claim,
                adapter=adapter,
                reason=finished.reason,
                trained_tokens=finished.trained_tokens,
                database=self._site.database,
            )
        )

    def _conclude(self, ending: messages.Stopped | Failure) -> None:
        """Commit an end without an adapter, then see to the trainer."""
        self._settle()
        if isinstance(ending, Failure):
            self._lease.conclude(lambda: jobs.fail(self._claim, ending, database=self._site.database))
            if ending.failure_class in SPOILT:
                self._resident.discard()
            return
        to = self._resting_place() if ending.wish == "pause" else Status.CANCELLED
        self._lease.conclude(lambda: jobs.release(self._claim, to=to, database=self._site.database))
        if self._deaf:
            self._wind_down()

    def _resting_place(self) -> Literal[Status.PAUSED, Status.QUEUED]:
        return Status.PAUSED if self._lease.wish == "pause" else Status.QUEUED

    def _settle(self) -> None:
        while self._unsaid:
            self._lease.persist(partial(self._lease.through, partial(self._record, self._unsaid[0])))
            self._unsaid.popleft()

    def _wind_down(self) -> None:
        """Give a cancelled trainer the rest of its time to come round, else replace it: it may hold the base."""
        child = self._resident.child
        until = self._asked_at + min(DEAF_S, 3 * self._site.heartbeat_s)
        while child is not None and time.monotonic() < until and not self._stopping():
            try:
                reply = child.receive(SLICE_S)
            except (ChildGone, ChildGarbled):
                break
            if isinstance(reply, messages.Finished | messages.Stopped | messages.Failed):
                return
        self._resident.discard()
