"""Files that no row points to go, and no other, on every store and both databases."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from core.db import tables
from core.domain import ids
from core.domain.adapters import Adapter, AdapterFile, NewAdapter
from core.domain.training import Checkpointed
from core.services import adapters, bases, garbage, jobs
from core.services.garbage import Collected
from core.storage import bundles, objects
from core.storage.bundles import BrokenBundle
from core.storage.objects import Store
from tests.support.worlds import LEASE_S, World, sha256

ANY_AGE = timedelta(days=-1)


@pytest.fixture
def store(store: Store) -> Store:
    """A store that nobody else has put anything into: `memory://` is one for the process."""
    return Store(MemoryStore()) if isinstance(store.backend, MemoryStore) else store


def collect(world: World, store: Store, *, aside: timedelta = ANY_AGE) -> Collected:
    """A round in which every file is old."""
    return garbage.collect(store=store, database=world.database, unreferenced=ANY_AGE, aside=aside)


def hashes(store: Store) -> set[str]:
    return {key.removeprefix("sha256/") for key in store.older_than(ANY_AGE, prefix="sha256")}


def sealed(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(text)
    (folder / "shared.json").write_text("{}")
    bundles.seal(folder, {"text": text})
    return folder


def publish(world: World, store: Store, folder: Path) -> Adapter:
    """Store a bundle, then register it, as a worker does."""
    return registered(world, bundles.upload(folder, store), manifest=(folder / "manifest.json").read_text())


def registered(world: World, files: tuple[AdapterFile, ...], *, manifest: str) -> Adapter:
    world.submit()
    made = NewAdapter(
        sha256=files[-1].sha256,
        manifest=manifest,
        files=files,
        template_hash=sha256("template"),
        system_prompt=None,
        r=8,
        step=1,
    )
    return jobs.succeed(world.claim(), adapter=made, reason="completed", database=world.database)


def is_whole(adapter: Adapter, store: Store, folder: Path) -> bool:
    try:
        bundles.fetch(adapter.files, folder, store)
    except BrokenBundle:
        return False
    return True


def test_files_of_a_deleted_adapter_go_but_for_those_that_others_share(
    world: World, store: Store, tmp_path: Path
) -> None:
    gone, kept = (publish(world, store, sealed(tmp_path / text, text)) for text in ("gone", "kept"))
    base = bases.register(
        name="stored",
        files=(store.put("config.json", b"of a base"),),
        fingerprint=sha256("stored"),
        template_hash=sha256("template"),
        context_length=8,
        parameters=8,
        database=world.database,
    )
    assert collect(world, store) == Collected()

    adapters.delete(gone.id, caller=world.caller, database=world.database)
    before = hashes(store)
    assert collect(world, store, aside=timedelta(hours=1)) == Collected(set_aside=2)
    assert before - hashes(store) == {file.sha256 for file in gone.files if file.name != "shared.json"}
    assert collect(world, store, aside=timedelta(hours=1)) == Collected()
    assert collect(world, store) == Collected(removed=2)
    assert list(store.older_than(ANY_AGE, prefix="aside")) == []
    assert is_whole(kept, store, tmp_path / "fetched")
    assert base.files[0].sha256 in hashes(store)


def test_files_of_checkpoints_go_when_these_are_dropped(world: World, store: Store, tmp_path: Path) -> None:
    world.submit()
    held = world.claim()
    published = []
    for step in (1, 2, 3):
        files = bundles.upload(sealed(tmp_path / str(step), f"step {step}"), store)
        event = Checkpointed(step=step, path="/", manifest_sha256=files[-1].sha256, bytes=10)
        jobs.add_checkpoint(held, event, database=world.database, lease_s=LEASE_S)
        published.append({file.sha256 for file in files if file.name != "shared.json"})
    assert collect(world, store) == Collected()

    jobs.prune(held, database=world.database, lease_s=LEASE_S)
    before = hashes(store)
    assert collect(world, store).set_aside == 2
    assert before - hashes(store) == published[0]


def test_a_checkpoint_whose_manifest_is_lost_keeps_no_round_from_going_on(
    world: World, store: Store, tmp_path: Path
) -> None:
    world.submit()
    held = world.claim()
    files = bundles.upload(sealed(tmp_path / "lost", "lost"), store)
    event = Checkpointed(step=1, path="/", manifest_sha256=files[-1].sha256, bytes=10)
    jobs.add_checkpoint(held, event, database=world.database, lease_s=LEASE_S)
    store.delete(f"sha256/{files[-1].sha256}")
    assert collect(world, store).set_aside == 2


def test_a_file_that_is_pointed_to_again_is_put_back(world: World, store: Store, tmp_path: Path) -> None:
    folder = sealed(tmp_path / "again", "again")
    stored = bundles.upload(folder, store)
    assert collect(world, store, aside=timedelta(hours=1)).set_aside == 3
    adapter = registered(world, stored, manifest="{}")
    assert not is_whole(adapter, store, tmp_path / "missing")
    assert collect(world, store) == Collected(put_back=3)
    assert is_whole(adapter, store, tmp_path / "back")
    assert collect(world, store) == Collected()


def test_what_lies_aside_and_was_stored_anew_is_not_put_over_it(world: World, store: Store, tmp_path: Path) -> None:
    folder = sealed(tmp_path / "anew", "anew")
    bundles.upload(folder, store)
    collect(world, store, aside=timedelta(hours=1))
    adapter = publish(world, store, folder)
    assert collect(world, store) == Collected(removed=3)
    assert is_whole(adapter, store, tmp_path / "there")


def test_young_files_stay_whatever_points_to_them(world: World, store: Store) -> None:
    store.put("young", b"young")
    assert garbage.collect(store=store, database=world.database) == Collected()
    assert hashes(store)


def test_no_file_is_lost_to_sweeps_at_the_moment_of_its_publication(
    world: World, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every put is put again and every file is old, so that sweeps take what is being published; it comes back."""
    monkeypatch.setattr(objects, "FRESH", timedelta(days=-1))
    folders = [sealed(tmp_path / str(number), f"content {number % 2}") for number in range(4)]
    done = threading.Event()
    swept: list[Collected] = []

    def sweep() -> None:
        while not done.is_set():
            swept.append(collect(world, store, aside=timedelta(hours=1)))

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        made = [publish(world, store, folder) for folder in folders for _ in range(2)]
    finally:
        done.set()
        for sweeper in sweepers:
            sweeper.join()
    assert swept
    collect(world, store, aside=timedelta(hours=1))
    assert all(is_whole(adapter, store, tmp_path / "fetched" / adapter.id) for adapter in made)


def test_folders_of_deleted_adapters_go_from_the_engines_shelf(world: World, store: Store, tmp_path: Path) -> None:
    gone, kept = (publish(world, store, sealed(tmp_path / text, text)) for text in ("gone", "kept"))
    shelf = tmp_path / "shelf"
    for adapter in (gone, kept):
        bundles.fetch(adapter.files, shelf / f"{adapter.id}-{adapter.sha256[:16]}", store)
    others = f"{ids.new('ad')}-{'0' * 16}"
    (shelf / others).mkdir()
    (shelf / f".{gone.id}-x.part").mkdir()
    assert garbage.sweep_folders(shelf, database=world.database) == ()
    adapters.delete(gone.id, caller=world.caller, database=world.database)
    assert garbage.sweep_folders(shelf, database=world.database) == (gone.id,)
    left = {path.name for path in shelf.iterdir()}
    assert left == {f"{kept.id}-{kept.sha256[:16]}", others, f".{gone.id}-x.part"}
    assert garbage.sweep_folders(tmp_path / "none", database=world.database) == ()


def test_tables_with_files_are_all_asked(world: World) -> None:
    """A new table that names files by hash must be among those that `garbage` asks."""
    named = {table.name for table in tables.metadata.sorted_tables for column in table.c if "files" in column.name}
    assert named == {"adapters", "bases"}
    manifests = {table.name for table in tables.metadata.sorted_tables if "manifest_sha256" in table.c}
    assert manifests == {"adapters", "checkpoints"}
