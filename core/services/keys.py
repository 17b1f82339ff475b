"""API keys: make, look up, revoke. A secret is shown once; only its HMAC under the service's pepper is stored.

A key's text is `bl_`, the tail of its id, `_` and 43 random characters, so that a leaked one can be named.
"""

import hashlib
import hmac
import logging
import re
import secrets
from typing import Final

from core.db.clocks import wall
from core.db.keys import TOUCH_S
from core.db.transactions import Database, DatabaseUnavailable, snapshot, transaction
from core.domain import ids
from core.domain.keys import (
    ApiKey,
    Caller,
    InvalidKey,
    InvalidKeyName,
    InvalidSecret,
    KeyNotFound,
    NewKey,
    Role,
    RoleTooLow,
)
from core.domain.pages import Filters, InvalidFilter, Page, cursor

log = logging.getLogger(__name__)

DEFAULT_PROJECT: Final = "default"
PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
OURS: Final = re.compile(rf"bl_(?P<tail>[0-7][{ids.ALPHABET}]{{25}})_[A-Za-z0-9_-]{{43}}")
FOREIGN: Final = re.compile(r"[!-~]{32,200}")
"""What an operator may put into an admin key file: visible ASCII, long enough not to be guessed."""


def new_secret(key_id: str | None = None) -> str:
    """Make the text of a key, with the id it will have or a new one."""
    tail = (key_id or ids.new("key")).removeprefix("key_")
    return f"bl_{tail}_{secrets.token_urlsafe(32)}"


def authenticate(token: str, *, database: Database, pepper: bytes) -> Caller:
    """Say whose key this is. Always reads the row, so that a revoked key ends with its next request.

    Raises:
        InvalidKey: Unknown or revoked; the two look the same from outside.
    """
    hashed = _hash(token, pepper)
    with snapshot(database) as tx:
        found = tx.keys.hashed(hashed)
    # The index has only seen HMACs under a secret pepper: its timing tells nothing about a key.
    if found is None or not hmac.compare_digest(found[1], hashed) or found[0].revoked_at is not None:
        raise InvalidKey("This API key is unknown or revoked.")
    key = found[0]
    if key.last_used_at is None or key.last_used_at <= wall() - TOUCH_S:
        _touch(key, database)
    return Caller(key_id=key.id, project_id=key.project_id, project=key.project, role=key.role)


def create(
    *, role: Role, name: str, project: str | None = None, caller: Caller, database: Database, pepper: bytes
) -> NewKey:
    """Make a key of the caller's project or, as an admin of `default`, of another one, which is made if need be.

    Raises:
        RoleTooLow: The caller is no admin, or one of another project than the key's.
        InvalidKeyName: The name of the key or of the project can't be used.
    """
    _check_names(name, project)
    _require_admin(caller)
    if project not in {None, caller.project} and caller.project != DEFAULT_PROJECT:
        raise RoleTooLow("Only an admin of project 'default' makes keys of other projects.", param="project")
    key_id = ids.new("key")
    secret = new_secret(key_id)
    with transaction(database) as tx:
        owner = tx.projects.ensure(project or caller.project)
        key = _key(key_id, secret, role=role, name=name, project_id=owner.id, project=owner.name, by=caller.key_id)
        tx.keys.add(key, secret_hash=_hash(secret, pepper))
        details = {"role": role.value, "name": name}
        tx.audit.add("key.create", key.id, project_id=owner.id, key_id=caller.key_id, details=details)
    return NewKey(key=key, secret=secret)


def listing(filters: Filters, *, caller: Caller, database: Database) -> Page[ApiKey]:
    """List the project's keys, newest first, without secrets; `status` may be `active` or `revoked`.

    Raises:
        RoleTooLow: The caller is no admin.
        UnknownCursor, InvalidFilter: Of what was asked.
    """
    _require_admin(caller)
    after = cursor(filters, "key")
    if filters.status not in {None, "active", "revoked"}:
        raise InvalidFilter("A key's status is active or revoked.", param="status")
    if filters.metadata:
        raise InvalidFilter("Keys have no metadata.", param="metadata")
    with snapshot(database) as tx:
        return tx.keys.page(filters, project_id=caller.project_id, after=after)


def revoke(key_id: str, *, caller: Caller, database: Database) -> ApiKey:
    """End a key; its requests fail from now on. Revoking twice changes nothing.

    Raises:
        RoleTooLow: The caller is no admin.
        KeyNotFound: The project has none of this id.
    """
    _require_admin(caller)
    with transaction(database) as tx:
        key = tx.keys.get(key_id, project_id=caller.project_id) if ids.is_id(key_id, "key") else None
        if key is None:
            raise KeyNotFound(f"There is no key {key_id[:60]!r}.")
        if key.revoked_at is None:
            tx.keys.revoke(key.id)
            tx.audit.add("key.revoke", key.id, project_id=key.project_id, key_id=caller.key_id)
        return tx.keys.get(key.id, project_id=caller.project_id) or key


def seed(secret: str, *, database: Database, pepper: bytes) -> ApiKey:
    """Make sure that this text is an admin key of project `default`; a key revoked since stays revoked.

    Raises:
        InvalidSecret: The text is too short or holds spaces.
    """
    ours = OURS.fullmatch(secret)
    if ours is None and FOREIGN.fullmatch(secret) is None:
        raise InvalidSecret(
            "An admin key needs 32 to 200 visible ASCII characters; `python -c 'import secrets; "
            "print(secrets.token_urlsafe(32))'` makes one."
        )
    key_id = ids.new("key") if ours is None else f"key_{ours['tail']}"
    hashed = _hash(secret, pepper)
    with transaction(database) as tx:
        owner = tx.projects.ensure(DEFAULT_PROJECT)
        key = _key(key_id, secret, role=Role.ADMIN, name="admin", project_id=owner.id, project=owner.name, by=None)
        if tx.keys.add(key, secret_hash=hashed):
            tx.audit.add("key.seed", key.id, project_id=owner.id, key_id=None)
        found = tx.keys.hashed(hashed)
    if found is None:
        raise InvalidSecret("The admin key carries the id of another key; make a new one.")
    if found[0].revoked_at is not None:
        log.warning("the admin key %s was revoked and stays so; give the service another one", found[0].id)
    return found[0]


def _key(key_id: str, secret: str, *, role: Role, name: str, project_id: str, project: str, by: str | None) -> ApiKey:
    return ApiKey(
        id=key_id,
        project_id=project_id,
        project=project,
        role=role,
        name=name,
        hint=f"bl_…{secret[-4:]}",
        created_at=wall(),
        created_by=by,
        revoked_at=None,
        last_used_at=None,
    )


def _hash(secret: str, pepper: bytes) -> str:
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def _touch(key: ApiKey, database: Database) -> None:
    try:
        with transaction(database) as tx:
            tx.keys.touch(key.id)
    except DatabaseUnavailable:
        # A request must not fail because a writer holds the file; the next one notes the use.
        log.info("the use of key %s could not be noted now", key.id)


def _require_admin(caller: Caller) -> None:
    if caller.role is not Role.ADMIN:
        raise RoleTooLow("Keys are an admin's affair; this key's role is " + caller.role.value + ".")


def _check_names(name: str, project: str | None) -> None:
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidKeyName("A key's name has 1 to 200 printable characters.", param="name")
    if project is not None and PROJECT.fullmatch(project) is None:
        raise InvalidKeyName(
            "A project's name has 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit.", param="project"
        )
