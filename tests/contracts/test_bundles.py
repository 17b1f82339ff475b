"""Bundles over every store: sealed, uploaded, fetched, and refused when anything has changed."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from core.domain.adapters import AdapterFile
from core.storage import bundles
from core.storage.bundles import BrokenBundle, BundleExists
from core.storage.objects import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "scratch" / "bundle"
    made.mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(os.urandom(100_000))
    (made / "adapter_config.json").write_text('{"r": 8}')
    return made


def test_a_bundle_travels_through_a_store(store: Store, folder: Path, tmp_path: Path) -> None:
    sealed = bundles.seal(folder, {"step": 7, "base": "蓝心"})
    files = bundles.upload(folder, store)

    by_hash = bundles.fetch_bundle(sealed.manifest_sha256, tmp_path / "one" / "copy", store)
    by_files = bundles.fetch(files, tmp_path / "two", store)

    assert sealed.bytes == sum(file.bytes for file in files)
    assert files[-1] == AdapterFile(
        name="manifest.json", sha256=sealed.manifest_sha256, bytes=(folder / "manifest.json").stat().st_size
    )
    for copy in (by_hash, by_files):
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        assert set(bundles.verify(copy, sealed.manifest_sha256)) == set(files)
    assert json.loads((by_hash / "manifest.json").read_text())["base"] == "蓝心"


def test_many_fetch_one_folder_at_once(store: Store, folder: Path, tmp_path: Path) -> None:
    sealed = bundles.seal(folder, {})
    bundles.upload(folder, store)
    target = tmp_path / "cache" / "adapter"
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            bundles.fetch_bundle(sealed.manifest_sha256, target, store)
            bundles.verify(target, sealed.manifest_sha256)
        except BaseException as error:  # noqa: BLE001  (the main thread judges it)
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]


def test_a_whole_folder_is_kept_and_a_broken_one_replaced(store: Store, folder: Path, tmp_path: Path) -> None:
    sealed = bundles.seal(folder, {})
    bundles.upload(folder, store)
    target = bundles.fetch_bundle(sealed.manifest_sha256, tmp_path / "copy", store)
    inode = target.stat().st_ino

    bundles.fetch_bundle(sealed.manifest_sha256, target, store)
    assert target.stat().st_ino == inode

    (target / "adapter_config.json").write_text('{"r": 9}')
    bundles.fetch_bundle(sealed.manifest_sha256, target, store)
    assert target.stat().st_ino != inode
    bundles.verify(target, sealed.manifest_sha256)
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "scratch"} | ({"a folder"} if store.folder else set())


def test_rotten_bytes_in_the_store_are_refused_and_nothing_appears(store: Store, folder: Path, tmp_path: Path) -> None:
    sealed = bundles.seal(folder, {})
    files = bundles.upload(folder, store)
    weights = next(file for file in files if file.name.endswith(".safetensors"))
    obstore.put(store.backend, f"sha256/{weights.sha256}", b"\0" * weights.bytes)
    cache = tmp_path / "cache"

    with pytest.raises(BrokenBundle, match=r"adapter_model\.safetensors"):
        bundles.fetch_bundle(sealed.manifest_sha256, cache / "adapter", store)

    assert list(cache.iterdir()) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [flip, truncate, empty, remove])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_harm_to_any_file_is_noticed(folder: Path, name: str, harm: Callable[[Path], None]) -> None:
    sealed = bundles.seal(folder, {"step": 1})
    bundles.verify(folder, sealed.manifest_sha256)

    harm(folder / name)

    with pytest.raises(BrokenBundle, match=name):
        bundles.verify(folder, sealed.manifest_sha256)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "", ".hidden", "a\0b", "a\n", "manifest.json", "x" * 200])
def test_a_manifest_with_a_hostile_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    manifest = json.dumps({"files": {name: {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}}}).encode()
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest)
    store.put_file(path)

    with pytest.raises(BrokenBundle):
        bundles.fetch_bundle(hashlib.sha256(manifest).hexdigest(), tmp_path / "out" / "copy", store)

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "../" + "a" * 61])
def test_a_hash_is_sixty_four_hex_digits(tmp_path: Path, digest: str) -> None:
    with pytest.raises(BrokenBundle):
        bundles.fetch_bundle(digest, tmp_path / "copy", Store.open("memory://"))


def test_a_manifest_that_is_not_there_is_a_broken_bundle(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BrokenBundle, match="manifest is missing"):
        bundles.fetch_bundle("0" * 64, tmp_path / "copy", store)


def test_a_folder_with_anything_but_files_is_not_sealed(folder: Path) -> None:
    (folder / "link").symlink_to("adapter_config.json")

    with pytest.raises(BrokenBundle, match="'link'"):
        bundles.seal(folder, {})


def test_a_bundle_is_published_once(folder: Path, tmp_path: Path) -> None:
    bundles.seal(folder, {})
    target = bundles.publish(folder, tmp_path / "jobs" / "7-1")

    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BundleExists):
        bundles.publish(other, target)

    assert not folder.exists()
    assert (target / "manifest.json").is_file()
