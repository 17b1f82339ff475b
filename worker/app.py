"""The Celery app of a worker: one solo process that is hinted at, never told, what to run.

Importing this starts nothing and reads nothing; `worker_init` builds what a shift needs, before the broker is asked.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

from celery import Celery, signals
from celery.worker import state
from pydantic import ValidationError

from core import logs, wake
from core.domain import ids
from core.domain.workers import BF16, WorkerInfo
from core.errors import Problem, Unavailable
from core.runtime import Runtime, build
from core.services import workers
from core.settings import Settings
from worker import chores
from worker.child import Program
from worker.inputs import Site
from worker.messages import Ready
from worker.resident import Resident
from worker.rounds import Rounds
from worker.shift import Leaving, Shift
from worker.sweep import Sweep

log = logging.getLogger(__name__)

FLAGS: Final = ("--quiet", "worker", "--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat")
REFUSED: Final = 78
"""Exit code of a worker that can't start as it is configured (sysexits.h: EX_CONFIG)."""
FAILED: Final = 1
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

leaving: Final = Leaving()


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What this process has started."""

    runtime: Runtime
    shift: Shift
    rounds: tuple[Rounds, ...]

    def begin(self) -> None:
        """Go the rounds and send hints; then look for jobs before the broker is asked: it may be away, and none waits for it."""
        for each in self.rounds:
            each.start()
        if self.runtime.relay is not None:
            self.runtime.relay.start()
        self.shift.work()

    def end(self) -> None:
        """End in order."""
        for each in self.rounds:
            each.stop()
        self.shift.end()
        self.runtime.close()
        log.info("the worker has ended in order")


class NoSuchDevice(Unavailable):
    """The device that the settings name is not there."""

    code = "no_such_device"


# Celery calls functions of modules, with nothing of ours in hand: this is where signals and tasks meet.
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
    """Read where the broker is; Celery asks when it starts, not when this is imported."""
    return {**wake.CONFIG, "broker_url": _broker_url(_settings())}


app: Final = Celery("bluelora", include=["worker.tasks"], set_as_current=False)
app.add_defaults(configuration)


def start(settings: Settings) -> Duty:
    """Build all that a worker needs, and register it.

    Raises:
        Problem: The database is outdated or away, the store is away, or no trainer can be started on the device.
    """
    runtime = build(settings)
    data_dir = settings.data_dir.absolute()
    program = Program(
        log_path=data_dir / "logs" / f"trainer-{os.getpid()}.log",
        threads=settings.trainer_threads,
        gpu=settings.device != "cpu",
    )
    resident = Resident(program)
    ready = resident.warm_up()
    if settings.device == "cuda" and _device(ready) == "cpu":
        resident.stop()
        raise NoSuchDevice("BLUELORA_DEVICE is cuda, but the trainer finds no GPU; set it to auto or cpu.")
    site = Site(
        database=runtime.database,
        store=runtime.store,
        data_dir=data_dir,
        device=_device(ready),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
        stall_s=settings.stall_s,
    )
    chores.tidy(site)
    info = describe(ready, bases=site.cached())
    workers.register(info, database=runtime.database)
    on_shift = Shift(info=info, site=site, resident=resident, leaving=leaving)
    sweep = Sweep(on_shift, wake=runtime.wake, every_s=settings.sweep_s)
    rounds = (
        Rounds("sweep", sweep.sweep, every_s=settings.sweep_s),
        Rounds("chores", partial(chores.tidy, site), every_s=chores.EVERY_S),
    )
    return Duty(runtime=runtime, shift=on_shift, rounds=rounds)


def describe(ready: Ready, *, bases: tuple[str, ...]) -> WorkerInfo:
    """Say what this worker is, by what its trainer found."""
    return WorkerInfo(
        id=ids.new("wk"),
        host=socket.gethostname(),
        device=ready.device,
        memory_bytes=ready.memory_bytes,
        bases=bases,
        capabilities=("cpu",) if _device(ready) == "cpu" else ("cuda", BF16),
        started_at=int(time.time()),
    )


def _device(ready: Ready) -> Literal["cpu", "cuda"]:
    return "cpu" if ready.device == "cpu" else "cuda"


def _keep_our_logging(**_: object) -> None:
    """Be connected: that alone keeps Celery from setting up its own."""


def _begin(**_: object) -> None:
    logs.start()
    if os.environ.get("REMAP_SIGTERM"):
        _refuse("REMAP_SIGTERM is set: with it a stop freezes the running attempt. Unset it and start again.")
    _install_handlers()
    try:
        duties.append(start(_settings()))
    except Problem as problem:
        _refuse(f"The worker can't start. {problem}")
    except Exception:  # Celery would log it and serve on, failing every hint it takes from workers that could run it
        log.exception("The worker can't start.")
        sys.exit(FAILED)
    duties[0].begin()
    if leaving():
        _end()
        sys.exit(0)


def _take_signals_over(**_: object) -> None:
    _install_handlers()


def _end(**_: object) -> None:
    if duties:
        duties.pop().end()


def _install_handlers() -> None:
    # Celery's own would not reach a running task, or end the process at once (QUIT, second INT), or re-exec it (HUP).
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # No lock and no log: a handler runs between any two instructions of the main thread.
    leaving.asked = True
    state.should_stop = 0


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        # Never str(error): it repeats what was set, and that may be a password.
        faults = error.errors(include_input=False, include_url=False)
        _refuse("; ".join(f"BLUELORA_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in faults))


def _broker_url(settings: Settings) -> str:
    url = settings.broker_url.get_secret_value() if settings.broker_url else ""
    if not url:
        _refuse("BLUELORA_BROKER_URL is not set. Name a Valkey or Redis, for example redis://127.0.0.1:6379/0.")
    if urlsplit(url).scheme not in wake.SCHEMES:
        _refuse(f"BLUELORA_BROKER_URL starts with one of {', '.join(f'{scheme}://' for scheme in wake.SCHEMES)}.")
    return url


def _refuse(why: str) -> NoReturn:
    logs.start()
    log.critical("%s", why)
    sys.exit(REFUSED)


# As calls, since a decorator without types would take the types off what it decorates.
signals.setup_logging.connect(_keep_our_logging)
signals.worker_init.connect(_begin)
signals.worker_ready.connect(_take_signals_over)
signals.worker_shutdown.connect(_end)
