"""Creates that come twice under one key make one thing. Used inside the transaction that creates it."""

from dataclasses import dataclass

from core.db.idempotency import KeyHeld
from core.db.transactions import Transaction
from core.errors import Conflict, Invalid


class KeyReused(Invalid):
    """The Idempotency-Key came before with another request."""

    code = "idempotency_key_reused"


class KeyInFlight(Conflict):
    """The first request with this Idempotency-Key has not answered yet."""

    code = "idempotency_in_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a request was answered: its HTTP status and body; the service that made the thing can read its id there."""

    status: int
    response: str


def replay(tx: Transaction, *, project_id: str, key: str | None, request_sha256: str) -> Stored | None:
    """Take the key for this transaction (None: go on and create), or give what it stands for.

    Args:
        tx: The transaction that creates; if it rolls back, the key is free again.
        project_id: Keys of one project mean nothing in another.
        key: As sent; without one nothing is remembered.
        request_sha256: Of what makes the request the same: route and canonical body.

    Raises:
        KeyReused: The key belongs to another request.
        KeyInFlight: The first request is still at work.
    """
    if key is None:
        return None
    try:
        row = tx.idempotency.begin(key, project_id=project_id, request_sha256=request_sha256)
    except KeyHeld as error:
        raise _in_flight() from error
    if row is None:
        return None
    if row.request_sha256 != request_sha256:
        raise KeyReused("This Idempotency-Key came before with another request; use a new key for a new request.")
    if row.status is None or row.response is None:
        raise _in_flight()
    return Stored(status=row.status, response=row.response)


def remember(tx: Transaction, *, project_id: str, key: str | None, answer: Stored) -> None:
    """Keep the answer for whoever comes with the same key within a day."""
    if key is not None:
        tx.idempotency.finish(key, project_id=project_id, status=answer.status, response=answer.response)


def _in_flight() -> KeyInFlight:
    return KeyInFlight("The first request with this Idempotency-Key is still at work; ask again.", retry_after_s=1.0)
