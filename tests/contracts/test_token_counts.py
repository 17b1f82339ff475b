"""Token counts on both databases: filled in once, equal to what the trainer renders."""

import asyncio
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from core.db.transactions import Database, transaction
from core.domain import formats
from core.domain.datasets import Dataset
from core.domain.keys import Caller
from core.services import bases, counts, datasets
from core.services.renderers import Renderers
from core.services.uploads import Upload, UploadLimits
from core.storage import bundles
from core.storage.objects import Store
from core.text.chat import Renderer
from tests.support import tiny_base
from tests.support.streams import arriving
from tests.support.worlds import a_caller

LONG = "雪" * 3000
ROWS = "".join(
    f'{{"instruction": "{asked}", "input": "", "output": "{told}"}}\n'
    for asked, told in (("你是谁？", "我是小石。"), ("a", LONG), ("b", "</s>c"))
).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.make(tmp_path_factory.mktemp("base"))


class Counter:
    """A deployment that counts."""

    def __init__(self, database: Database, folder: Path, cache: Path) -> None:
        self.database, self.base_folder = database, folder
        self.store = Store(MemoryStore())
        self.caller: Caller = a_caller(database)
        self.renderers = Renderers(store=self.store, cache_dir=cache)

    def upload(self, content: bytes) -> Dataset:
        return asyncio.run(
            datasets.receive(
                arriving(content),
                upload=Upload(filename="rows.jsonl"),
                caller=self.caller,
                key=None,
                store=self.store,
                database=self.database,
                limits=UploadLimits(bytes=10**6, validation_wait_s=60),
            )
        ).dataset

    def add_base(self, name: str) -> Renderer:
        renderer = Renderer.load(self.base_folder)
        bases.register(
            name=name,
            files=bundles.upload(self.base_folder, self.store),
            fingerprint=f"{name:0<64}",
            template_hash=renderer.template_hash,
            context_length=renderer.context_length,
            parameters=1,
            database=self.database,
        )
        return renderer

    def count(self, *, base: str | None = None) -> int:
        return counts.count_pending(
            store=self.store, database=self.database, renderers=self.renderers, default_base=base, lease_s=30
        )

    def get(self, dataset: Dataset) -> Dataset:
        return datasets.get(dataset.id, caller=self.caller, database=self.database)


@pytest.fixture
def counter(database: Database, folder: Path, tmp_path: Path) -> Counter:
    return Counter(database, folder, tmp_path / "cache")


def test_tokens_are_those_of_the_renderer_and_come_once(counter: Counter) -> None:
    made = counter.upload(ROWS)
    assert (made.status, made.tokens, made.tokens_status) == ("ready", None, "pending")
    assert counter.count() == 0
    renderer = counter.add_base("tiny")

    assert counter.count() == 1
    assert counter.count() == 0

    found = counter.get(made)
    examples = [renderer.example(row) for row in formats.parse([ROWS])]
    assert found.tokens is not None
    assert found.tokens_status == "counted"
    assert found.tokens.base == "tiny"
    assert found.tokens.total == sum(map(len, examples))
    assert found.tokens.trained == sum(label >= 0 for example in examples for label in example.labels)
    assert found.tokens.longest_row == max(map(len, examples)) > renderer.context_length
    assert (found.tokens.over_context, sum(found.tokens.lengths.rows)) == (1, 3)
    told = {finding.code: finding for finding in found.findings}
    assert (told["rows_over_context"].lines, told["rows_over_context"].count) == ((2,), 1)
    assert found.summary is not None
    assert found.summary.warnings == len(found.findings) == 2
    counter.add_base("other")
    assert counter.count(base="other") == 0


def test_a_base_that_cannot_count_is_said_so_and_the_data_set_stays(counter: Counter) -> None:
    made = counter.upload(ROWS)
    counter.add_base("tiny")
    assert made.object_key is not None
    counter.store.delete(made.object_key)

    assert counter.count() == 1

    found = counter.get(made)
    assert (found.status, found.tokens, found.tokens_status) == ("ready", None, "failed")
    assert counter.count() == 0


def test_a_data_set_deleted_while_it_is_counted_is_left_alone(counter: Counter) -> None:
    made = counter.upload(ROWS)
    with transaction(counter.database) as tx:
        claimed = tx.datasets.claim_uncounted(lease_s=30)
        assert claimed is not None
        assert tx.datasets.claim_uncounted(lease_s=30) is None
    datasets.delete(made.id, caller=counter.caller, store=counter.store, database=counter.database)

    with transaction(counter.database) as tx:
        assert not tx.datasets.renew(made.id, lease_s=30)
        tx.datasets.settle_tokens(made.id, None, ())
        assert tx.datasets.made(made.id).tokens_status == "pending"
