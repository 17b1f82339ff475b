"""API keys: one project, one role, shown once, stored as an HMAC."""

from dataclasses import dataclass
from enum import StrEnum

from core.errors import Forbidden, Invalid, NotFound, Unauthenticated


class Role(StrEnum):
    """What a key may do: `infer` generates, `read` also looks, `member` also writes, `admin` also keeps keys."""

    ADMIN = "admin"
    MEMBER = "member"
    READ = "read"
    INFER = "infer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Who owns rows: every data set, job and adapter belongs to one project."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as stored; the secret itself is known to its holder alone."""

    id: str
    project_id: str
    project: str
    role: Role
    name: str
    hint: str
    created_at: int
    created_by: str | None
    revoked_at: int | None
    last_used_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made. `secret` is shown once and kept nowhere."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a request comes from."""

    key_id: str
    project_id: str
    project: str
    role: Role


class KeyNotFound(NotFound):
    """No such key in this project."""

    code = "key_not_found"


class InvalidKey(Unauthenticated):
    """The Authorization header is missing, or its key is unknown or revoked."""

    code = "invalid_api_key"


class RoleTooLow(Forbidden):
    """The key is good, its role does not allow this."""

    code = "role_too_low"


class InvalidKeyName(Invalid):
    """A name of a key or project that can't be used."""

    code = "invalid_key_name"


class InvalidSecret(Invalid):
    """A text that is too weak to be a key, or clashes with one."""

    code = "invalid_secret"
