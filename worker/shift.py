"""What one worker process holds while it serves, and the loop that serves: reap, claim, run, until nothing is left."""

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from core import tether
from core.domain.jobs import Claim, Failure, FailureClass
from core.domain.workers import WorkerInfo
from core.errors import Problem
from core.services import jobs, workers
from worker.inputs import Site
from worker.resident import Resident
from worker.supervise import supervise

log = logging.getLogger(__name__)

BREATH_S: Final = 1.0


@dataclass
class Leaving:
    """Raised by signal handlers, so a plain attribute: setting a threading.Event there can deadlock."""

    asked: bool = False

    def __call__(self) -> bool:
        """Say whether this worker has been asked to leave."""
        return self.asked


class Shift:
    """One worker at work. Make it in the main thread.

    Args:
        info: What the database knows of this worker.
        site: Where its attempts run.
        resident: Its trainer.
        leaving: Whether it has been asked to leave.
    """

    def __init__(self, *, info: WorkerInfo, site: Site, resident: Resident, leaving: Leaving) -> None:
        self.info = info
        self.site = site
        self.leaving = leaving
        self._resident = resident
        self._tied_to = tether.parent_tied_to()
        self._busy = threading.Lock()
        self._idle_since = time.monotonic()

    def work(self) -> None:
        """Run whatever this worker can run, until nothing is left or it shall leave. Call it from the main thread.

        Hints may come doubled or late: what is claimed is up to the database alone.
        """
        with self._busy:
            while not self.leaving() and self._one_more():
                pass
            self._idle_since = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since the last attempt ended; 0 while one runs."""
        return 0.0 if self._busy.locked() else time.monotonic() - self._idle_since

    def begin_again(self) -> None:
        """Become a new process of the same command, unless an attempt runs: a broker connection may have gone silent.

        Nothing of ours survives `exec` but the process id; a new shift looks for jobs before it talks to the broker.
        """
        idle_s = self.idle_s()
        if not self._busy.acquire(blocking=False):
            return
        if self.leaving():
            self._busy.release()
            return
        try:
            log.warning("jobs wait and no hint has come for %.0f s: starting anew", idle_s)
            self._resident.stop()
            workers.leave(self.info.id, database=self.site.database)
            os.execv(sys.executable, self._command())  # noqa: S606  (our own command line)
        finally:
            self._busy.release()

    def end(self) -> None:
        """End the trainer, and be forgotten."""
        self._resident.stop()
        try:
            workers.leave(self.info.id, database=self.site.database)
        except Problem as error:
            log.warning("could not sign off: %s", error)

    def _command(self) -> list[str]:
        same = [sys.executable, *sys.orig_argv[1:]]
        # This runs in the sweep's thread, whose `exec` would lose what ties the main thread to our supervisor.
        return same if self._tied_to is None else tether.command(same, parent_pid=self._tied_to)

    def _one_more(self) -> bool:
        """Run one attempt; False when there is none. Whatever goes wrong, this worker lives on."""
        claim: Claim | None = None
        try:
            jobs.reap(self.site.database)
            claim = jobs.claim(worker=self.info, database=self.site.database, lease_s=self.site.lease_s)
            if claim is None:
                return False
            log.info("attempt %d of %s begins", claim.attempt, claim.job.id)
            supervise(claim, site=self.site, resident=self._resident, stopping=self.leaving)
        except Exception:  # the outermost loop; MemoryError would end Celery's worker
            log.exception("an attempt ended in an error of ours")
            time.sleep(BREATH_S)
            self._resident.discard()
            return claim is not None and self._give_up(claim)
        return True

    def _give_up(self, claim: Claim) -> bool:
        """Tell the job's owner that the fault was ours; False when not even that works."""
        failure = Failure(
            code="internal_error",
            message="The worker hit an internal error; its log has the details.",
            failure_class=FailureClass.INFRA,
            retryable=True,
        )
        try:
            jobs.fail(claim, failure, database=self.site.database)
        except Exception:
            log.exception("%s is left to its lease", claim.job.id)
            return False
        return True
