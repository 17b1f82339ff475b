"""Hints to workers: that a job waits. SQL is the truth; a lost or doubled hint does no harm.

`Relay` is a thread, as publishing can stall for 20 s when the broker is gone, so never in a request. It sends what
transactions left in the outbox, its own process's or another's, and what `hint` is told. Knows no SQL.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from core.errors import Problem, Unsupported

log = logging.getLogger(__name__)

Wake = Callable[[str], None]
TASK: Final = "worker.tasks.wake"
SCHEMES: Final = ("redis", "rediss", "redis+socket")
POLL_S: Final = 1.0
LONGEST_PAUSE_S: Final = 5.0
MOST_HINTS: Final = 1000
STOP_S: Final = 5.0
CONFIG: Final[Mapping[str, Any]] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_acks_late": False,
    "worker_pool": "solo",
    "worker_concurrency": 1,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_hijack_root_logger": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "visibility_timeout": 3600,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "global_keyprefix": "bl:",
    },
    "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 1},
}
"""Celery's settings at both ends: here, where hints are published, and in worker/app.py."""


class UnknownBroker(Unsupported):
    """A broker of a kind that loses messages here, or that nobody has tried."""

    code = "unknown_broker"


class Message(Protocol):
    """What the outbox holds: a hint that still has to be sent."""

    @property
    def id(self) -> int:
        """Its number in the outbox."""

    @property
    def job_id(self) -> str:
        """The job it is about."""


def make_app(broker_url: str) -> Celery:
    """Make a Celery app on this broker, as both ends need it.

    Raises:
        UnknownBroker: The URL is not of Redis or Valkey.
    """
    if urlsplit(broker_url).scheme not in SCHEMES:
        raise UnknownBroker("A broker URL starts with redis://, rediss:// or redis+socket://.", param="broker_url")
    app = Celery("bluelora", broker=broker_url, set_as_current=False)
    app.conf.update(CONFIG)
    return app


def reachable(broker_url: str, *, timeout_s: float = 0.5) -> bool:
    """Say whether something listens where the broker should be."""
    parts = urlsplit(broker_url)
    local = parts.scheme == "redis+socket"
    try:
        with socket.socket(socket.AF_UNIX) if local else _tcp(parts.hostname, parts.port, timeout_s) as connection:
            if local:
                connection.settimeout(timeout_s)
                connection.connect(unquote(parts.path))
    except OSError:
        return False
    return True


class Relay:
    """The thread that publishes hints. `start` it once; `hint` may be called from any thread, before that too."""

    def __init__(
        self, broker_url: str, *, unsent: Callable[[], Sequence[Message]], mark: Callable[[Iterable[int]], None]
    ) -> None:
        self._app = make_app(broker_url)
        self._unsent = unsent
        self._mark = mark
        self._hints: set[str] = set()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was not sent stays in the outbox."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._app.close()

    def hint(self, job_id: str) -> None:
        """Have workers told of a job soon; costs the caller nothing."""
        with self._lock:
            if len(self._hints) < MOST_HINTS:
                self._hints.add(job_id)
        self._woken.set()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            self._woken.wait(POLL_S)
            self._woken.clear()
            pause_s = 0.0 if self._flush() else min(2 * pause_s + POLL_S / 2, LONGEST_PAUSE_S)

    def _flush(self) -> bool:
        with self._lock:
            hints, self._hints = self._hints, set()
        try:
            messages = self._unsent()
            for job_id in sorted(hints.union(message.job_id for message in messages)):
                if self._stopping.is_set():
                    return True
                self._app.send_task(TASK, args=[job_id])
            if messages:
                self._mark([message.id for message in messages])
        except (OperationalError, RedisError, OSError) as error:
            log.warning("the broker takes no hints now: %s", type(error).__name__)
            return False
        except Problem as problem:
            log.warning("the outbox can't be read now: %s", problem.code)
            return False
        return True


def _tcp(host: str | None, port: int | None, timeout_s: float) -> socket.socket:
    return socket.create_connection((host or "localhost", port or 6379), timeout_s)
