"""Whether this deployment can serve: the database and the storage decide, the rest is named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from core import wake
from core.db import schema
from core.db.transactions import Database, snapshot
from core.errors import Problem
from core.storage.objects import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the deployment. `down` makes the whole unready, `degraded` does not."""

    name: str
    status: Literal["ok", "degraded", "down"]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether requests can be served, and how each part is."""

    ready: bool
    parts: tuple[Part, ...]


def readiness(*, database: Database, store: Store, broker_url: str | None, engines: Sequence[Part] = ()) -> Readiness:
    """Ask every part, each for a second or so at most.

    Args:
        database: Must answer, with the schema this code needs.
        store: Must take bytes.
        broker_url: Without a broker jobs still start, by the workers' own sweep, but later.
        engines: What the caller has found out about engines.
    """
    parts = (
        _vital("database", lambda: schema.require_current(database)),
        _vital("storage", store.check),
        _broker(broker_url),
        *engines,
        _workers(database),
    )
    return Readiness(ready=all(part.status != "down" for part in parts), parts=parts)


def _vital(name: str, check: Callable[[], None]) -> Part:
    try:
        check()
    except Problem as problem:
        return Part(name=name, status="down", detail=problem.detail)
    return Part(name=name, status="ok")


def _broker(url: str | None) -> Part:
    if url is None:
        return Part(name="broker", status="degraded", detail="None is set; workers look for jobs by themselves.")
    if not wake.reachable(url):
        return Part(name="broker", status="degraded", detail="It does not answer; workers look for jobs by themselves.")
    return Part(name="broker", status="ok")


def _workers(database: Database) -> Part:
    try:
        with snapshot(database) as tx:
            alive = len(tx.workers.alive())
    except Problem as problem:
        return Part(name="workers", status="degraded", detail=problem.detail)
    if alive:
        return Part(name="workers", status="ok", detail=f"{alive} alive")
    return Part(name="workers", status="degraded", detail="None was seen in the last minute; jobs wait.")
