"""API keys on both databases."""

import pytest
from sqlalchemy import text

from core.db.transactions import Database
from core.domain.keys import Caller, InvalidKey, InvalidKeyName, InvalidSecret, KeyNotFound, NewKey, Role, RoleTooLow
from core.domain.pages import Filters, InvalidFilter
from core.services import keys

PEPPER = b"a pepper for tests only"


@pytest.fixture
def admin(database: Database) -> Caller:
    secret = keys.new_secret()
    keys.seed(secret, database=database, pepper=PEPPER)
    return keys.authenticate(secret, database=database, pepper=PEPPER)


def made(admin: Caller, database: Database, *, role: Role = Role.MEMBER, project: str | None = None) -> NewKey:
    return keys.create(role=role, name="ci", project=project, caller=admin, database=database, pepper=PEPPER)


def test_a_new_key_is_known_by_its_secret_alone(admin: Caller, database: Database) -> None:
    new = made(admin, database)
    assert new.secret.startswith(f"bl_{new.key.id.removeprefix('key_')}_")
    caller = keys.authenticate(new.secret, database=database, pepper=PEPPER)
    assert (caller.key_id, caller.project, caller.role) == (new.key.id, "default", Role.MEMBER)
    for wrong in (new.secret[:-1] + "!", new.secret + "x", "", "bl_", "\0", "ключ"):
        with pytest.raises(InvalidKey):
            keys.authenticate(wrong, database=database, pepper=PEPPER)
    with pytest.raises(InvalidKey):
        keys.authenticate(new.secret, database=database, pepper=b"another pepper")


def test_the_secret_is_stored_nowhere(admin: Caller, database: Database) -> None:
    new = made(admin, database)
    with database.engine.connect() as connection:
        rows = [str(row) for row in connection.execute(text("SELECT * FROM keys"))]
        rows += [str(row) for row in connection.execute(text("SELECT * FROM audit"))]
    assert not any(new.secret[35:] in row for row in rows)


def test_a_revoked_key_ends_with_its_next_request(admin: Caller, database: Database) -> None:
    new = made(admin, database)
    first = keys.revoke(new.key.id, caller=admin, database=database)
    assert first.revoked_at is not None
    assert keys.revoke(new.key.id, caller=admin, database=database) == first
    with pytest.raises(InvalidKey):
        keys.authenticate(new.secret, database=database, pepper=PEPPER)


def test_each_change_is_an_audit_row(admin: Caller, database: Database) -> None:
    new = made(admin, database)
    for _ in range(2):
        keys.revoke(new.key.id, caller=admin, database=database)
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT action, target, key_id FROM audit ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [
        ("key.seed", admin.key_id, None),
        ("key.create", new.key.id, admin.key_id),
        ("key.revoke", new.key.id, admin.key_id),
    ]


def test_keys_are_listed_by_project(admin: Caller, database: Database) -> None:
    ours, theirs = made(admin, database), made(admin, database, role=Role.ADMIN, project="other")
    listed = keys.listing(Filters(), caller=admin, database=database)
    assert [key.id for key in listed.data] == [ours.key.id, admin.key_id]
    keys.revoke(ours.key.id, caller=admin, database=database)
    active = keys.listing(Filters(status="active"), caller=admin, database=database)
    assert [key.id for key in active.data] == [admin.key_id]
    other = keys.authenticate(theirs.secret, database=database, pepper=PEPPER)
    assert other.project == "other"
    assert [key.id for key in keys.listing(Filters(), caller=other, database=database).data] == [theirs.key.id]
    with pytest.raises(KeyNotFound):
        keys.revoke(ours.key.id, caller=other, database=database)
    with pytest.raises(InvalidFilter):
        keys.listing(Filters(status="lost"), caller=admin, database=database)
    with pytest.raises(InvalidFilter):
        keys.listing(Filters(metadata={"a": "b"}), caller=admin, database=database)


def test_roles_and_projects_bound_who_makes_keys(admin: Caller, database: Database) -> None:
    member = keys.authenticate(made(admin, database).secret, database=database, pepper=PEPPER)
    foreign = made(admin, database, role=Role.ADMIN, project="other")
    other = keys.authenticate(foreign.secret, database=database, pepper=PEPPER)
    with pytest.raises(RoleTooLow):
        made(member, database)
    with pytest.raises(RoleTooLow):
        made(other, database, project="default")
    assert made(other, database, project="other").key.project == "other"
    with pytest.raises(RoleTooLow):
        keys.listing(Filters(), caller=member, database=database)
    for name, project in (("", None), ("a\0", None), ("x" * 201, None), ("ok", "Not/A/Name")):
        with pytest.raises(InvalidKeyName):
            keys.create(role=Role.READ, name=name, project=project, caller=admin, database=database, pepper=PEPPER)


def test_seeding_is_the_same_twice_and_never_revives(database: Database) -> None:
    secret = "an operator's own long secret text".replace(" ", "-")
    first = keys.seed(secret, database=database, pepper=PEPPER)
    assert keys.seed(secret, database=database, pepper=PEPPER).id == first.id
    admin = keys.authenticate(secret, database=database, pepper=PEPPER)
    assert admin.role is Role.ADMIN
    keys.revoke(first.id, caller=admin, database=database)
    assert keys.seed(secret, database=database, pepper=PEPPER).revoked_at is not None
    with pytest.raises(InvalidKey):
        keys.authenticate(secret, database=database, pepper=PEPPER)
    for weak in ("", "short", "x" * 31, "x" * 40 + " y"):
        with pytest.raises(InvalidSecret):
            keys.seed(weak, database=database, pepper=PEPPER)


def test_the_last_use_is_noted_once_a_minute(admin: Caller, database: Database) -> None:
    new = made(admin, database)

    def last_used() -> int | None:
        listed = keys.listing(Filters(), caller=admin, database=database).data
        return next(key.last_used_at for key in listed if key.id == new.key.id)

    assert last_used() is None
    keys.authenticate(new.secret, database=database, pepper=PEPPER)
    noted = last_used()
    assert noted is not None
    for seconds, changes in ((30, False), (100, True)):
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE keys SET last_used_at = :then"), {"then": noted - seconds})
        keys.authenticate(new.secret, database=database, pepper=PEPPER)
        assert (last_used() != noted - seconds) is changes
