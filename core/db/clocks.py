"""Two clocks: wall time for people, and a lease clock that no wall-clock jump moves.

On SQLite, whose users share one machine, the lease clock is CLOCK_BOOTTIME beside the machine's boot id: after a
reboot every lease of the earlier boot has run out. On PostgreSQL it is the server's own `now()`.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, ColumnElement, Double, Float, bindparam, cast, func


def wall() -> int:
    """Whole Unix seconds, for columns that people read."""
    return int(time.time())


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """What leases are measured by; `boot_id` is empty where the database's own clock serves."""

    boot_id: str

    def now(self) -> ColumnElement[float]:
        """Seconds on the lease clock, as an SQL expression; inside one transaction it may stand still."""
        if self.boot_id:
            return bindparam(None, time.clock_gettime(time.CLOCK_BOOTTIME), Double, unique=True)
        return cast(func.extract("epoch", func.now()), Float(53))

    def wall(self) -> ColumnElement[int]:
        """Whole Unix seconds as an SQL expression, by one clock for all hosts where the database has one."""
        if self.boot_id:
            return bindparam(None, wall(), BigInteger, unique=True)
        return cast(func.extract("epoch", func.now()), BigInteger)


def machine_clock() -> LeaseClock:
    """The clock of this machine's boot."""
    return LeaseClock(boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def server_clock() -> LeaseClock:
    """The database server's clock."""
    return LeaseClock(boot_id="")
