"""What serving cost, on its way into the database: added up here, written once a second by a thread.

A write for each answer would put every answer behind the database's one writer and a sync to disk.
"""

import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from core.db.transactions import Database, transaction
from core.errors import Problem

log: Final = logging.getLogger(__name__)
PAUSE_S: Final = 1.0
STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom an answer is counted for; no adapter means the base alone."""

    project_id: str
    key_id: str
    adapter_id: str | None


@dataclass(slots=True)
class _Sum:
    """What one account has used since it was last written."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ledger:
    """Counts answers. `add` may be called from any thread, before `start` too; `stop` writes what is left.

    Of a process that is killed, the last second is lost. A database that does not answer loses nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sums: defaultdict[tuple[str, Account], _Sum] = defaultdict(_Sum)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and write what is left."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._try()

    def add(self, account: Account, *, prompt_tokens: int, completion_tokens: int, requests: int = 1) -> None:
        """Count an answer, on today's day in UTC; costs the caller microseconds."""
        self._add((time.strftime("%Y-%m-%d", time.gmtime()), account), _Sum(requests, prompt_tokens, completion_tokens))

    def write(self) -> None:
        """Write what has been counted, in one transaction; what can't be written stays counted.

        Raises:
            Unavailable, StorageFull: It can't be written.
        """
        with self._lock:
            sums, self._sums = self._sums, defaultdict(_Sum)
        if not sums:
            return
        try:
            with transaction(self._database) as tx:
                for (day, account), used in sums.items():
                    tx.usage.add(
                        day=day,
                        project_id=account.project_id,
                        key_id=account.key_id,
                        adapter_id=account.adapter_id,
                        requests=used.requests,
                        prompt_tokens=used.prompt_tokens,
                        completion_tokens=used.completion_tokens,
                    )
        except Problem:
            for key, used in sums.items():
                self._add(key, used)
            raise

    def _add(self, key: tuple[str, Account], used: _Sum) -> None:
        with self._lock:
            kept = self._sums[key]
            kept.requests += used.requests
            kept.prompt_tokens += used.prompt_tokens
            kept.completion_tokens += used.completion_tokens

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            self._try()

    def _try(self) -> None:
        try:
            self.write()
        except Problem as problem:
            log.warning("usage can't be written now: %s", problem.code)
