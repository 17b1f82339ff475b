"""The sweep: done by a thread of every worker, as a solo pool is busy for a whole job. Any number may run.

It ends expired leases, sends lost hints again, and says that this worker lives, even while an attempt runs.
"""

from dataclasses import replace
from typing import Final

from core.services import jobs, workers
from core.wake import Wake
from worker.shift import Shift

LOST_SWEEPS: Final = 2
"""A job that has been runnable for this many sweeps (10 s) has probably lost its hint."""
SILENT_SWEEPS: Final = 12
"""An idle worker that has not been woken for this many sweeps (60 s) while jobs wait for it has a silent broker."""
MOST_HINTS: Final = 8
"""A hint makes a worker run all it can, so that a few a sweep wake every idle one there is."""


class Sweep:
    """One look at what this worker shares with others.

    Args:
        shift: Whose worker this is.
        wake: Sends a hint; never blocks.
        every_s: Seconds between sweeps.
    """

    def __init__(self, shift: Shift, *, wake: Wake, every_s: float) -> None:
        self._shift = shift
        self._wake = wake
        self._every_s = every_s

    def sweep(self) -> None:
        """Do all of it once.

        Raises:
            Unavailable: The database does not answer.
        """
        shift, database = self._shift, self._shift.site.database
        now = replace(shift.info, draining=shift.leaving(), bases=shift.site.cached())
        workers.seen(now, database=database)
        jobs.reap(database)
        lost_s, silence_s = self._every_s * LOST_SWEEPS, self._every_s * SILENT_SWEEPS
        # A busy worker would only fill the queue: those who are idle see the same rows.
        if shift.idle_s() < lost_s:
            return
        for job_id in jobs.runnable(database, older_than_s=lost_s, worker=shift.info, limit=MOST_HINTS):
            self._wake(job_id)
        if shift.idle_s() > silence_s and jobs.runnable(database, older_than_s=silence_s, worker=shift.info):
            shift.begin_again()
