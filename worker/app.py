"""The Celery app of a worker: one solo process that is hinted at, never told, what to run.

Importing this starts nothing and reads nothing; `worker_init` builds what a shift needs, before the broker is asked.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

from celery import Celery, signals
from celery.worker import state

from core import logs, runtime, wake
from core.domain import ids
from core.domain.workers import BF16, WorkerInfo
from core.errors import Problem
from core.services import workers
from core.settings import Settings
from worker import scratch
from worker.child import Program, Resident
from worker.inputs import Site
from worker.messages import Ready
from worker.shift import Leaving, Shift
from worker.sweep import Sweep

log = logging.getLogger(__name__)

FLAGS: Final = ("--quiet", "worker", "--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat")
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

leaving: Final = Leaving()


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What the process has started, in the order of its ending."""

    sweep: Sweep
    relay: wake.Relay
    shift: Shift


# Celery's signals and tasks are module-level functions: this is where they meet. Filled once, by `worker_init`.
duties: Final[list[Duty]] = []


def shift() -> Shift:
    """Give the shift of this process.

    Raises:
        RuntimeError: No worker has been started here.
    """
    if not duties:
        raise RuntimeError("no worker runs in this process; start one with `python -m worker`")
    return duties[0].shift


def configuration() -> Mapping[str, Any]:
    """Read where the broker is, when Celery first asks."""
    return wake.configuration(_settings().broker_url)


def _settings() -> Settings:
    return Settings()


app: Final = Celery("bluelora", include=["worker.tasks"])
app.add_defaults(configuration)


def start(settings: Settings) -> Duty:
    """Build all that a worker needs, and register it.

    Raises:
        Problem: The database is outdated or away, the store is away, or no trainer can be started.
    """
    parts = runtime.build(settings)
    program = Program(log_path=settings.data_dir.absolute() / "logs" / "trainer.log", threads=settings.trainer_threads)
    resident = Resident(program)
    ready = resident.warm_up()
    site = Site(
        database=parts.database,
        store=parts.store,
        data_dir=settings.data_dir.absolute(),
        device=_device(settings, ready),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
        stall_s=settings.stall_s,
    )
    info = workers.register(_info(site, ready), database=parts.database)
    for name in scratch.sweep(site.scratch, older_than_s=2 * settings.lease_s):
        log.info("removed what attempt %s left behind", name)
    on_shift = Shift(info=info, site=site, resident=resident, leaving=leaving)
    relay = parts.relay
    return Duty(sweep=Sweep(on_shift, wake=parts.wake, every_s=settings.sweep_s), relay=relay, shift=on_shift)


@signals.setup_logging.connect
def _keep_our_logging(**_: object) -> None:
    """Be connected: that alone keeps Celery from setting up its own."""


@signals.worker_init.connect
def _begin(**_: object) -> None:
    logs.start()
    if os.environ.get("REMAP_SIGTERM"):
        _refuse("REMAP_SIGTERM is set: with it a stop freezes the running attempt. Unset it and start again.")
    settings = _settings()
    if settings.broker_url is None:
        _refuse("BLUELORA_BROKER_URL is not set. Name a Valkey or Redis, e.g. redis://127.0.0.1:6379/0.")
    _install_handlers()
    try:
        duty = start(settings)
    except Problem as problem:
        _refuse(f"The worker can't start: {problem}")
    duties.append(duty)
    duty.sweep.start()
    duty.relay.start()
    # Before the broker is asked: it may be away, and jobs don't wait for it.
    duty.shift.work()
    if leaving():
        _end()
        sys.exit(0)


@signals.worker_ready.connect
def _take_over_handlers(**_: object) -> None:
    _install_handlers()


@signals.worker_shutdown.connect
def _end(**_: object) -> None:
    if duties:
        duty = duties.pop()
        duty.sweep.stop()
        duty.relay.stop()
        duty.shift.end()
        log.info("the worker has ended in order")


def _install_handlers() -> None:
    # Celery's own would not reach a running task, or end the process at once (QUIT, second INT), or re-exec it (HUP).
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # No lock, no log: a handler runs between any two instructions of the main thread.
    leaving.asked = True
    state.should_stop = 0


def _refuse(why: str) -> NoReturn:
    log.critical("%s", why)
    sys.exit(3)
