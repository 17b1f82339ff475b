"""Imported adapters on both databases: versions, keys, and what a refusal at the last moment leaves."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from obstore.store import MemoryStore

from core.db.transactions import Database
from core.domain.adapters import Adapter, BrokenAdapter, NameTaken
from core.domain.imports import AdapterImport
from core.domain.keys import Caller
from core.services import adapters, bases, imports
from core.services.idempotency import KeyReused
from core.services.imports import Imported
from core.services.uploads import UploadLimits
from core.storage.objects import Store
from tests.support import loras
from tests.support.streams import arriving
from tests.support.worlds import POLICY, a_caller, sha256

LIMITS = UploadLimits(bytes=10**6, validation_wait_s=30)


class Importer:
    """Imports adapters as one caller."""

    def __init__(self, database: Database, store: Store, caller: Caller) -> None:
        self.database, self.store, self.caller = database, store, caller

    def send(
        self, parts: loras.Parts, *, key: str | None = None, weights: AsyncIterator[bytes] | None = None, **said: str
    ) -> Imported:
        (_, config), (_, content) = parts
        return asyncio.run(
            imports.receive(
                weights or arriving(content, 500),
                said=AdapterImport.model_validate({"name": "made"} | said),
                config=config,
                caller=self.caller,
                key=key,
                store=self.store,
                database=self.database,
                policy=POLICY,
                limits=LIMITS,
                show=lambda adapter: json.dumps({"id": adapter.id, "reference": adapter.reference}),
            )
        )

    def adapter(self, imported: Imported) -> Adapter:
        return adapters.get(imported.adapter_id, caller=self.caller, database=self.database)

    def stored(self) -> list[str]:
        ages = timedelta(days=-1)
        return sorted(key for prefix in ("blobs", "sha256") for key in self.store.older_than(ages, prefix=prefix))


@pytest.fixture
def importer(database: Database) -> Importer:
    store = Store(MemoryStore())
    bases.register(
        name="blue",
        files=(store.put("config.json", json.dumps(loras.SIZES).encode()),),
        fingerprint=sha256("blue"),
        template_hash=sha256("template"),
        context_length=128,
        parameters=1000,
        database=database,
    )
    return Importer(database, store, a_caller(database))


def test_versions_follow_from_what_is_imported(importer: Importer) -> None:
    first, again = importer.send(loras.good()), importer.send(loras.good())
    prompted = importer.send(loras.good(), system_prompt="x")
    other = importer.send(loras.good(seed=1))
    assert [one.answer.status for one in (first, again, prompted, other)] == [201, 200, 201, 201]
    assert again.adapter_id == first.adapter_id
    found = [importer.adapter(one) for one in (first, prompted, other)]
    assert [(one.kind, one.version, one.system_prompt) for one in found] == [
        ("imported", 1, None),
        ("imported", 2, "x"),
        ("imported", 3, None),
    ]
    assert {file.sha256 for one in found for file in one.files} <= {key[7:] for key in importer.stored()}


def test_one_key_makes_one_adapter_and_refusals_leave_nothing(importer: Importer) -> None:
    first, again = (importer.send(loras.good(), key="k") for _ in range(2))
    assert again.answer == first.answer
    assert again.replayed
    before = importer.stored()
    with pytest.raises(KeyReused):
        importer.send(loras.good(seed=1), key="k")
    with pytest.raises(NameTaken):
        importer.send(loras.good(seed=1), name="blue")
    with pytest.raises(BrokenAdapter):
        importer.send([loras.good()[0], (loras.WEIGHTS, b"")])
    assert importer.stored() == before


def test_a_base_that_takes_the_name_meanwhile_wins(importer: Importer) -> None:
    before = importer.stored()

    async def slow() -> AsyncIterator[bytes]:
        content = loras.good()[1][1]
        yield content[:100]
        bases.register(
            name="made",
            files=(),
            fingerprint=sha256("made"),
            template_hash=sha256("template"),
            context_length=128,
            parameters=1000,
            database=importer.database,
        )
        yield content[100:]

    with pytest.raises(NameTaken):
        importer.send(loras.good(), weights=slow(), base="blue")
    assert importer.stored() == before


def test_imports_at_once_get_one_version_each(importer: Importer) -> None:
    made: list[Imported] = []
    threads = [
        threading.Thread(target=lambda seed=seed: made.append(importer.send(loras.good(seed=seed))))
        for seed in (1, 2, 3, 1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.answer.status for one in made) == [200, 200, 200, 201, 201, 201]
    assert sorted(importer.adapter(one).version or 0 for one in made) == [1, 1, 2, 2, 3, 3]
    assert [key for key in importer.stored() if key.startswith("blobs")] == []
