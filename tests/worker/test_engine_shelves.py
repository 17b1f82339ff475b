"""Which adapter goes when room is needed."""

import pytest

from core.domain.adapters import AdapterNotFound
from worker.engine import shelves
from worker.engine.shelves import AdapterLoaded, Shelf, Slot


def add(shelf: Shelf, name: str) -> Slot:
    slot = shelf.new(name, f"/{name}")
    shelf.add(slot)
    return slot


def used(shelf: Shelf, *names: str) -> None:
    for name in names:
        shelf.release(shelf.acquire(name))


def names(slots: list[Slot]) -> list[str]:
    return [slot.name for slot in slots]


@pytest.fixture
def full() -> Shelf:
    """Three places: a, b and c, used in this order."""
    shelf = Shelf(3)
    for name in "abc":
        add(shelf, name)
    used(shelf, "a", "b", "c")
    return shelf


def test_the_least_recently_used_adapter_makes_room(full: Shelf) -> None:
    used(full, "a")
    assert full.retire_for_room()
    assert names(full.take_unused()) == ["b"]
    assert names(full.loaded()) == ["c", "a"]
    assert full.retire_for_room(), "there is room now, so nothing more goes"
    assert full.take_unused() == []


def test_an_adapter_in_use_is_passed_over(full: Shelf) -> None:
    full.acquire("a")
    assert full.retire_for_room()
    assert names(full.take_unused()) == ["b"]


def test_where_all_are_in_use_the_oldest_loses_its_name_at_once_and_its_place_when_it_is_done(full: Shelf) -> None:
    first, *_ = [full.acquire(name) for name in "abc"]
    assert not full.retire_for_room()
    assert not full.retire_for_room(), "one place was asked for, so one adapter goes"
    assert names(full.loaded()) == ["b", "c"]
    with pytest.raises(AdapterNotFound):
        full.acquire("a")
    assert full.take_unused() == []
    full.release(first)
    assert full.retire_for_room()
    assert names(full.take_unused()) == ["a"]


def test_a_fresh_adapter_stays_until_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(1)
    add(shelf, "a")
    assert not shelf.retire_for_room()
    used(shelf, "a")
    assert shelf.retire_for_room()
    shelf.take_unused()
    monkeypatch.setattr(shelves, "HELD_S", 0.0)
    add(shelf, "b")
    assert shelf.retire_for_room(), "nobody came for it in time"


def test_names_are_given_once_and_keys_never_again(full: Shelf) -> None:
    with pytest.raises(AdapterLoaded):
        full.check_free("a")
    full.retire("a")
    full.check_free("a")
    keys = {slot.key for slot in [*full.loaded(), *full.take_unused(), full.new("a", "/a")]}
    assert len(keys) == 4
    with pytest.raises(AdapterNotFound):
        full.retire("a")
