"""What routes ask for: who calls, what for, and the parts of the process.

`def` where SQL is read: FastAPI runs those in its thread pool, at a quarter of a millisecond each. All others are
`async def`, even where they wait for nothing.
"""

import hashlib
import json
import re
from typing import Annotated, Final

from fastapi import Depends, Header, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.meters import Meters
from core.domain.keys import Caller, InvalidKey, Role, RoleTooLow
from core.domain.pages import Filters, InvalidFilter
from core.errors import Malformed
from core.runtime import Runtime
from core.services import keys

KEY: Final = re.compile(r'[\x21-\x7e]{1,255}|"[\x20-\x7e]{1,255}"')
RANK: Final = {Role.INFER: 0, Role.READ: 1, Role.MEMBER: 2, Role.ADMIN: 3}
METADATA: Final = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
FILTERS: Final = ("limit", "after", "name", "status", "created_after")
bearer: Final = HTTPBearer(auto_error=False, description="A key, as `Authorization: Bearer bl_…`.")


class InvalidIdempotencyKey(Malformed):
    """The Idempotency-Key header is none."""

    code = "invalid_idempotency_key"


async def runtime(request: Request) -> Runtime:
    """Give the parts of this process, which the app's lifespan built."""
    built: Runtime = request.app.state.runtime
    return built


async def meters(request: Request) -> Meters:
    """Give what /metrics shows."""
    counted: Meters = request.app.state.meters
    return counted


RuntimeDep = Annotated[Runtime, Depends(runtime)]
MetersDep = Annotated[Meters, Depends(meters)]


def caller(
    request: Request, rt: RuntimeDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Say whose key came with the request.

    Raises:
        InvalidKey: None came, or it is unknown or revoked.
    """
    if given is None or not given.credentials:
        raise InvalidKey("Send a key as `Authorization: Bearer bl_…`.")
    found = keys.authenticate(given.credentials, database=rt.database, pepper=rt.pepper)
    request.scope["key_id"] = found.key_id
    return found


class Needs:
    """A dependency that lets callers of one role and above through.

    Raises:
        RoleTooLow: The key's role is below.
    """

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, found: Annotated[Caller, Depends(caller)]) -> Caller:
        """Give the caller."""
        if RANK[found.role] < RANK[self.role]:
            raise RoleTooLow(f"This needs a key of role {self.role.value}; yours has {found.role.value}.")
        return found


Infers = Annotated[Caller, Depends(Needs(Role.INFER))]
Reads = Annotated[Caller, Depends(Needs(Role.READ))]
Writes = Annotated[Caller, Depends(Needs(Role.MEMBER))]
Administers = Annotated[Caller, Depends(Needs(Role.ADMIN))]


def idempotency_key(
    given: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 255 visible ASCII characters, bare or quoted. The same key and request again within a "
            "day gets the stored answer and `Idempotency-Replayed: true`.",
        ),
    ] = None,
) -> str | None:
    """Read the Idempotency-Key.

    Raises:
        InvalidIdempotencyKey: It is empty, too long, or holds other characters.
    """
    if given is None:
        return None
    if not KEY.fullmatch(given):
        raise InvalidIdempotencyKey(
            "Idempotency-Key takes 1 to 255 visible ASCII characters, bare or quoted.", param="Idempotency-Key"
        )
    return given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given


async def sent_json(request: Request) -> str:
    """Give the JSON body as sent; FastAPI has read it by now, and it is valid."""
    return (await request.body()).decode()


async def request_sha256(request: Request, sent: Annotated[str, Depends(sent_json)]) -> str:
    """Name the request for idempotency: method, path and the body with its keys sorted."""
    canonical = json.dumps(json.loads(sent), sort_keys=True, separators=(",", ":")) if sent else ""
    return fingerprint(request, canonical)


def fingerprint(request: Request, body: str) -> str:
    """Hash what makes two requests the same."""
    return hashlib.sha256(f"{request.method} {request.scope['path']}\n{body}".encode()).hexdigest()


Key = Annotated[str | None, Depends(idempotency_key)]
SentJson = Annotated[str, Depends(sent_json)]
RequestSha256 = Annotated[str, Depends(request_sha256)]


def filters(
    request: Request,
    *,
    limit: Annotated[int, Query(ge=1, le=100, description="Items a page.")] = 20,
    after: Annotated[str | None, Query(max_length=100, description="The id of the last item seen.")] = None,
    name: Annotated[str | None, Query(max_length=200)] = None,
    status: Annotated[str | None, Query(max_length=40)] = None,
    created_after: Annotated[int | None, Query(ge=0, le=2**53, description="Unix seconds.")] = None,
) -> Filters:
    """Read what a list shall hold. `metadata[key]=value` may come several times; all must match.

    Raises:
        InvalidFilter: An unknown parameter: a filter that is not applied shows rows that were not asked for.
    """
    pairs: dict[str, str] = {}
    for given, value in request.query_params.multi_items():
        if found := METADATA.fullmatch(given):
            pairs[found[1]] = value
        elif given not in FILTERS:
            known = ", ".join((*FILTERS, "metadata[key]"))
            raise InvalidFilter(f"There is no filter {given[:60]!r}; known: {known}.", param=given[:60])
    return Filters(limit=limit, after=after, name=name, status=status, created_after=created_after, metadata=pairs)


FiltersDep = Annotated[Filters, Depends(filters)]
Id = Annotated[str, Path(max_length=200)]
