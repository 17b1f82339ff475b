"""The registry on both databases: references, versions, aliases, deletion."""

import pytest
from sqlalchemy import text

from core.db.transactions import transaction
from core.domain.adapters import (
    Adapter,
    AdapterInUse,
    AdapterNotFound,
    FileNotFound,
    InvalidReference,
    NameTaken,
)
from core.domain.bases import BaseConflict, BaseNotFound, InvalidBaseName
from core.domain.pages import Filters, InvalidFilter
from core.services import adapters, bases, jobs
from core.storage.objects import Store
from tests.support.worlds import World, a_base, a_caller, a_new_adapter, sha256


def trained(world: World, *, name: str = "persona") -> Adapter:
    world.submit(name=name)
    return jobs.succeed(world.claim(), adapter=a_new_adapter(), reason="completed", database=world.database)


def get(world: World, reference: str) -> Adapter:
    return adapters.get(reference, caller=world.caller, database=world.database)


def point(world: World, reference: str, *, name: str = "persona", alias: str = "prod") -> Adapter:
    return adapters.put_alias(name, alias, reference=reference, caller=world.caller, database=world.database)


def delete(world: World, reference: str) -> Adapter:
    return adapters.delete(reference, caller=world.caller, database=world.database)


def test_every_form_of_reference_finds_its_adapter(world: World) -> None:
    one, two = trained(world), trained(world)
    other = trained(world, name="other")
    point(world, one.id)
    assert get(world, one.id).id == one.id
    assert get(world, "persona").id == two.id
    assert get(world, "persona@1").id == one.id
    assert get(world, "persona@prod").id == one.id
    assert get(world, f"{two.job_id}@latest").id == two.id
    assert get(world, f"{two.job_id}@step-10").id == two.id
    assert get(world, "other").id == other.id
    assert get(world, "persona@prod").aliases == ("prod",)


def test_what_no_reference_means_is_not_found(world: World) -> None:
    one = trained(world)
    stranger = a_caller(world.database, project="other")
    for missing in ("persona@2", "persona@prod", "nobody", "ad_00000000000000000000000000", f"{one.job_id}@step-11"):
        with pytest.raises(AdapterNotFound):
            get(world, missing)
    for foreign in (one.id, "persona", f"{one.job_id}@latest"):
        with pytest.raises(AdapterNotFound):
            adapters.get(foreign, caller=stranger, database=world.database)
    with pytest.raises(InvalidReference):
        get(world, "../persona")


def test_the_newest_checkpoint_stands_in_for_a_job_that_runs(world: World) -> None:
    final = trained(world)
    running = world.submit()
    with transaction(world.database) as tx:
        for step in (10, 20):
            values = {name: getattr(final, name) for name in Adapter.__dataclass_fields__}
            values |= {"id": f"{final.id[:-2]}{step}", "kind": "checkpoint", "version": None, "step": step}
            tx.adapters.add(Adapter(**(values | {"job_id": running.id})))
    assert get(world, f"{running.id}@latest").step == 20
    assert get(world, f"{running.id}@step-10").reference == f"{running.id}@step-10"
    assert get(world, "persona").id == final.id
    with pytest.raises(InvalidReference):
        point(world, f"{running.id}@step-10")


def test_an_alias_moves_and_is_removed(world: World) -> None:
    trained(world)
    trained(world)
    for version in (1, 2, 1):
        assert point(world, f"persona@{version}").aliases == ("prod",)
        assert get(world, "persona@prod").version == version
    assert get(world, "persona@2").aliases == ()
    adapters.delete_alias("persona", "prod", caller=world.caller, database=world.database)
    with pytest.raises(AdapterNotFound):
        adapters.delete_alias("persona", "prod", caller=world.caller, database=world.database)
    with pytest.raises(AdapterNotFound):
        get(world, "persona@prod")


def test_an_alias_is_of_its_own_name_and_no_number(world: World) -> None:
    trained(world)
    trained(world, name="other")
    for name, alias, reference in (
        ("persona", "prod", "other"),
        ("persona", "1", "persona"),
        ("persona", "latest", "persona"),
        ("persona", "step-1", "persona"),
        ("persona", "a b", "persona"),
    ):
        with pytest.raises(InvalidReference):
            point(world, reference, name=name, alias=alias)


def test_an_adapter_with_an_alias_stays(world: World) -> None:
    trained(world)
    point(world, "persona@1")
    with pytest.raises(AdapterInUse, match="persona@prod"):
        delete(world, "persona@1")
    adapters.delete_alias("persona", "prod", caller=world.caller, database=world.database)
    delete(world, "persona@1")
    with pytest.raises(AdapterNotFound):
        get(world, "persona")


def test_a_version_number_never_comes_again_and_a_tombstone_stays(world: World) -> None:
    trained(world)
    second = trained(world)
    delete(world, "persona@2")
    third = trained(world)
    assert third.version == 3
    assert get(world, "persona").id == third.id
    with pytest.raises(AdapterNotFound):
        delete(world, second.id)
    with world.database.engine.connect() as connection:
        row = connection.execute(
            text("SELECT name, version, manifest_sha256, deleted_at FROM adapters WHERE id = :id"), {"id": second.id}
        ).one()
        actions = connection.execute(text("SELECT action FROM audit")).scalars().all()
    assert tuple(row[:3]) == ("persona", 2, second.sha256)
    assert row.deleted_at is not None
    assert actions == ["adapter.delete"]


def test_lists_are_newest_first_and_by_project(world: World) -> None:
    made = [trained(world).id for _ in range(3)]
    point(world, "persona@2")
    page = adapters.listing(Filters(limit=2), caller=world.caller, database=world.database)
    assert ([adapter.id for adapter in page.data], page.has_more) == ([made[2], made[1]], True)
    assert page.data[1].aliases == ("prod",)
    finals = adapters.listing(Filters(status="final"), caller=world.caller, database=world.database)
    assert len(finals.data) == 3
    stranger = a_caller(world.database, project="other")
    assert adapters.listing(Filters(), caller=stranger, database=world.database).data == ()
    with pytest.raises(InvalidFilter):
        adapters.listing(Filters(status="tiny"), caller=world.caller, database=world.database)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("objects").as_uri())


def test_files_are_read_by_name(world: World, store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    trained(world)
    path = tmp_path_factory.mktemp("files") / "adapter_model.safetensors"
    path.write_bytes(b"weights")
    store.put_file(path)
    opened = adapters.file(
        "persona", "adapter_model.safetensors", caller=world.caller, store=store, database=world.database
    )
    assert (b"".join(opened.chunks), opened.file.bytes) == (b"weights", 7)
    with pytest.raises(FileNotFound, match=r"adapter_model\.safetensors"):
        adapters.file("persona", "../secret", caller=world.caller, store=store, database=world.database)


class TestBases:
    def test_the_same_base_again_is_the_row_that_is_there(self, world: World) -> None:
        assert a_base(world.database) == world.base
        assert bases.get(world.base.id, database=world.database) == world.base
        assert bases.default(None, database=world.database) == world.base
        assert bases.everything(database=world.database) == (world.base,)

    def test_other_bytes_under_a_known_name_are_refused(self, world: World) -> None:
        with pytest.raises(BaseConflict):
            bases.register(
                name="nano", files=(), fingerprint=sha256("x"), template_hash=sha256("t"), context_length=1,
                parameters=1, database=world.database,
            )  # fmt: skip

    def test_names_are_checked(self, world: World) -> None:
        for name in ("", "a/b", "ds_x", "é", "a\0"):
            with pytest.raises(InvalidBaseName):
                a_base(world.database, name=name)
        trained(world)
        with pytest.raises(NameTaken):
            a_base(world.database, name="Persona")
        for missing in ("BlueLM", "\0", world.dataset.id):
            with pytest.raises(BaseNotFound):
                bases.get(missing, database=world.database)

    def test_a_folder_becomes_a_base_and_comes_back(
        self, world: World, store: Store, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text("{}")
        facts = {
            "fingerprint": sha256("f"), "template_hash": sha256("t"), "context_length": 64, "parameters": 10,
            "notes": ["said for people"],
        }  # fmt: skip
        base = bases.register_folder(folder, imported=facts, name="tiny", store=store, database=world.database)
        there = bases.fetch(base, store=store, cache_dir=tmp_path_factory.mktemp("cache"))
        assert there.name == base.fingerprint
        assert (there / "config.json").read_text() == "{}"
        page = bases.listing(Filters(limit=1), database=world.database)
        assert ([found.name for found in page.data], page.has_more) == (["tiny"], True)
