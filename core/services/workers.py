"""Workers: who there is, what each can run, and when it was last seen."""

from core.db.transactions import Database, snapshot, transaction
from core.domain.workers import WorkerInfo


def register(worker: WorkerInfo, *, database: Database) -> None:
    """Make a worker known, or tell what has changed about it."""
    with transaction(database) as tx:
        tx.workers.put(worker)


def seen(worker: WorkerInfo, *, database: Database) -> None:
    """Say that a worker lives; one that was forgotten is registered again."""
    with transaction(database) as tx:
        if not tx.workers.seen(worker):
            tx.workers.put(worker)


def leave(worker_id: str, *, database: Database) -> None:
    """Say that a worker has ended in order; what it held is in the queue again or over."""
    with transaction(database) as tx:
        tx.workers.remove(worker_id)


def listing(*, database: Database) -> tuple[WorkerInfo, ...]:
    """List the workers of the last day, the latest started first; `last_seen` tells the living from the gone."""
    with snapshot(database) as tx:
        return tx.workers.all()


def alive(*, database: Database) -> tuple[WorkerInfo, ...]:
    """List the workers that were seen in the last minute."""
    with snapshot(database) as tx:
        return tx.workers.alive()
