"""Which adapters are loaded, who uses them, and which goes first when room is needed. Knows no tensors.

Called from the server's thread (names, use) and from the model's (room), hence the lock.
"""

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from core.domain.adapters import AdapterNotFound
from core.errors import Conflict

HELD_S: Final = 5.0
"""A fresh adapter can't be evicted for this long or until its first use, or two callers could evict each other's
adapters for ever, each between its load and its request."""


class AdapterLoaded(Conflict):
    """An adapter of this name is loaded already."""

    code = "adapter_loaded"


@dataclass(eq=False)
class Slot:
    """One loaded adapter: its name and path as the caller gave them, our key in the model, and the requests on it."""

    name: str
    path: str
    key: str
    users: int = 0
    held_until: float = field(default_factory=lambda: time.monotonic() + HELD_S)


class Shelf:
    """At most `capacity` adapters, the least recently used first to go.

    An adapter that is retired has no name any more, so new requests don't find it; its weights stay, and count, until
    its last request is done.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._named: dict[str, Slot] = {}  # in order of use, latest last
        self._retired: list[Slot] = []
        self._keys = itertools.count()

    def acquire(self, name: str) -> Slot:
        """Find an adapter for one request and note its use; `release` it when the request is done.

        Raises:
            AdapterNotFound: None of this name is loaded.
        """
        with self._lock:
            slot = self._named.pop(name, None)
            if slot is None:
                raise AdapterNotFound(f"The model `{name[:200]}` does not exist.", param="model")
            self._named[name] = slot
            slot.users += 1
            slot.held_until = 0.0
            return slot

    def release(self, slot: Slot) -> None:
        """Note that a request is done."""
        with self._lock:
            slot.users -= 1

    def loaded(self) -> list[Slot]:
        """List the adapters that requests find."""
        with self._lock:
            return list(self._named.values())

    def retire(self, name: str) -> None:
        """Take an adapter's name away.

        Raises:
            AdapterNotFound: None of this name is loaded.
        """
        with self._lock:
            slot = self._named.pop(name, None)
            if slot is None:
                raise AdapterNotFound(f"The lora adapter '{name[:200]}' cannot be found.", param="lora_name")
            self._retired.append(slot)

    def check_free(self, name: str) -> None:
        """Make sure that a name can be given to a new adapter.

        Raises:
            AdapterLoaded: It is taken. The words are vLLM's, as clients tell this refusal by them.
        """
        with self._lock:
            if name in self._named:
                raise AdapterLoaded(f"The lora adapter '{name[:200]}' has already been loaded.", param="lora_name")

    def retire_for_room(self) -> bool:
        """Say whether one more adapter fits once `take_unused` was heeded; if not, see to it that one will.

        The least recently used idle adapter goes; where all are busy, the least recently used one goes after its
        requests. Call again later.
        """
        with self._lock:
            if len(self._named) + len(self._busy_retired()) < self._capacity:
                return True
            if self._busy_retired():
                return False
            now = time.monotonic()
            free = [slot for slot in self._named.values() if slot.held_until <= now]
            victim = next((slot for slot in free if not slot.users), free[0] if free else None)
            if victim is not None:
                self._retired.append(self._named.pop(victim.name))
            return victim is not None and not victim.users

    def take_unused(self) -> list[Slot]:
        """Give up the retired adapters that no request needs any more; the caller takes their weights off."""
        with self._lock:
            unused = [slot for slot in self._retired if not slot.users]
            self._retired = self._busy_retired()
            return unused

    def new(self, name: str, path: str) -> Slot:
        """Make a slot whose key no other adapter has had; nobody finds it before `add`."""
        return Slot(name=name, path=path, key=f"adapter{next(self._keys)}")

    def add(self, slot: Slot) -> None:
        """Let requests find an adapter whose weights are in place."""
        with self._lock:
            self._named[slot.name] = slot

    def _busy_retired(self) -> list[Slot]:
        return [slot for slot in self._retired if slot.users]
