"""The lease of one attempt: renewed by a thread of its own, given up by another when renewals fail.

Two threads, as a renewal may hang in a database that does not answer, and the attempt must end all the same: a lease
that could not be renewed for 25/30 of its length is treated as lost before anybody else can take the job.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from core.domain.jobs import AttemptLost, Wish
from core.errors import StorageFull, Unavailable

log = logging.getLogger(__name__)

FENCE: Final = 25 / 30
RETRY_S: Final = 1.0
AWAY: Final = (Unavailable, StorageFull)
"""What a database raises that takes no write now and may take the next: a disk that is full now may have room soon."""


class Lease:
    """Holds one claim while its `with` block lasts.

    Args:
        renew: Renews the claim and says what its owner wishes; raises AttemptLost when another holds the job.
        lease_s: How long a renewal holds.
        heartbeat_s: How often to renew.
        on_lost: Called once, from either thread, when the attempt has to stop: it must not block.
    """

    def __init__(
        self, renew: Callable[[], Wish], *, lease_s: float, heartbeat_s: float, on_lost: Callable[[], None]
    ) -> None:
        self._renew = renew
        self._fence_s = lease_s * FENCE
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._renewed_at = _now()
        self._lost = False
        self._concluding = False
        self._wish: Wish = "go_on"
        self._threads = [
            threading.Thread(target=self._keep_renewing, name="lease-renewal", daemon=True),
            threading.Thread(target=self._guard, name="lease-guard", daemon=True),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    @property
    def wish(self) -> Wish:
        """What the job's owner wished at the last renewal."""
        return self._wish

    @property
    def lost(self) -> bool:
        """Whether the attempt must write nothing more."""
        return self._lost or _now() - self._renewed_at > self._fence_s

    def check(self) -> None:
        """Go on only while the lease is held.

        Raises:
            AttemptLost: It is not.
        """
        if self.lost:
            raise AttemptLost("the lease of this attempt ran out or was taken over")

    def through(self, renew: Callable[[], Wish]) -> None:
        """Make a write that also renews the lease.

        Raises:
            AttemptLost: Another attempt holds the job.
            Unavailable: The database does not answer.
            StorageFull: Its disk is full.
        """
        # Counted from before the call: when the answer comes late, the lease is already that much older.
        sent_at = _now()
        try:
            wish = renew()
        except AttemptLost:
            self._lose()
            raise
        with self._lock:
            self._renewed_at = max(self._renewed_at, sent_at)
            self._wish = wish

    def persist(self, write: Callable[[], object]) -> None:
        """Make a write, again and again while the database is away and the lease is held.

        Raises:
            AttemptLost: Another attempt holds the job, or the lease ran out meanwhile.
        """
        while True:
            self.check()
            try:
                write()
            except AWAY as error:
                log.warning("the database is away, trying again: %s", error)
                time.sleep(RETRY_S)
            else:
                return

    def conclude(self, write: Callable[[], object]) -> None:
        """Make the write that ends the attempt; from here on a renewal that is refused is no loss.

        Raises:
            AttemptLost: As `persist`.
        """
        self._concluding = True
        self.persist(write)
        self._over.set()

    def _keep_renewing(self) -> None:
        pause = self._heartbeat_s
        while not self._over.wait(pause) and not self.lost:
            try:
                self.through(self._renew)
                pause = self._heartbeat_s
            except AttemptLost:
                return
            except AWAY as error:
                log.warning("a heartbeat failed: %s", error)
                pause = min(RETRY_S, self._heartbeat_s)

    def _guard(self) -> None:
        while not self._over.wait(min(0.5, self._heartbeat_s / 2)):
            if self.lost:
                self._lose()
                return

    def _lose(self) -> None:
        with self._lock:
            first = not self._lost
            self._lost = True
        if first and not self._concluding and not self._over.is_set():
            log.warning("the lease is lost; stopping the attempt")
            self._on_lost()


def _now() -> float:
    """Seconds that no wall-clock jump moves, and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
