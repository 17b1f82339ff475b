"""Answers to creates: what the service kept under the Idempotency-Key is what goes out, the first time and again."""

from fastapi import Response

from core.services.idempotency import Stored


def created(answer: Stored, *, location: str, replayed: bool) -> Response:
    """Answer with a stored body and status."""
    headers = {"Location": location} | ({"Idempotency-Replayed": "true"} if replayed else {})
    return Response(answer.response, status_code=answer.status, media_type="application/json", headers=headers)
