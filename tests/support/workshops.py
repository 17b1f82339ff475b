"""A workshop for the worker's tests: a migrated database, a file store, a base, a data set, a caller."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.db.transactions import Database, connect
from core.domain.adapters import AdapterFile
from core.domain.jobs import Claim, Event, Job
from core.domain.keys import Caller
from core.domain.pages import Filters
from core.domain.training import TrainSpec
from core.domain.workers import WorkerInfo
from core.services import adapters, bases, datasets, jobs, keys, workers
from core.services.uploads import Upload, UploadLimits
from core.storage import bundles
from core.storage.objects import Store
from core.text.chat import Renderer

PEPPER = b"pepper"
SECRET = "s" * 40
POLICY = jobs.Policy(default_base=None, max_lora_rank=64, max_queued_jobs=100)
BIG = 2**40


@dataclass
class Workshop:
    """Everything that surrounds a worker. `folder` is its data directory."""

    folder: Path
    database: Database
    store: Store
    caller: Caller
    dataset_id: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to live in this shop, but for a broker."""
        return {
            "BLUELORA_DATA_DIR": str(self.folder),
            "BLUELORA_DATABASE_URL": self.database.engine.url.render_as_string(hide_password=False),
            "BLUELORA_STORAGE_URL": (self.folder / "objects").as_uri(),
        }

    def submit(self, **fields: Any) -> Job:
        sent = {"dataset": self.dataset_id, "name": "tiny", "logging_steps": 1} | fields
        spec = TrainSpec.model_validate(sent)
        return jobs.submit(
            spec,
            json.dumps(sent),
            caller=self.caller,
            key=None,
            request_sha256="0" * 64,
            policy=POLICY,
            database=self.database,
            wake=lambda _: None,
        ).job

    def job(self, job_id: str) -> Job:
        return jobs.get(job_id, caller=self.caller, database=self.database)

    def events(self, job_id: str) -> tuple[Event, ...]:
        return jobs.events(job_id, caller=self.caller, database=self.database, limit=1000).data

    def cancel(self, job_id: str) -> None:
        jobs.cancel(job_id, caller=self.caller, database=self.database)

    def claim(self, *, lease_s: float = 30.0, worker_id: str = "wk_test") -> Claim:
        claim = jobs.claim(worker=a_worker(worker_id), database=self.database, lease_s=lease_s)
        assert claim is not None
        return claim

    def adapters(self) -> int:
        return len(adapters.listing(Filters(limit=100), caller=self.caller, database=self.database).data)


def a_worker(worker_id: str = "wk_test") -> WorkerInfo:
    return WorkerInfo(id=worker_id, host="here", device="cpu", memory_bytes=BIG)


def make(folder: Path, database_url: str, *, base_dir: Path, rows: list[dict[str, str]]) -> Workshop:
    """Lay out a shop whose base has the files of `base_dir`."""
    database = connect(database_url)
    store = Store.open((folder / "objects").as_uri())
    keys.seed(SECRET, database=database, pepper=PEPPER)
    caller = keys.authenticate(SECRET, database=database, pepper=PEPPER)
    workers.register(a_worker(), database=database)
    register_base(base_dir, store=store, database=database)
    shop = Workshop(folder=folder, database=database, store=store, caller=caller, dataset_id="")
    shop.dataset_id = upload(shop, rows)
    return shop


def register_base(base_dir: Path, *, store: Store, database: Database) -> None:
    files = bundles.upload(base_dir, store)
    bases.register(
        name="tiny-base",
        files=files,
        fingerprint=fingerprint(files),
        template_hash=template_hash(base_dir),
        context_length=256,
        parameters=1000,
        database=database,
    )


def fingerprint(files: tuple[AdapterFile, ...]) -> str:
    return hashlib.sha256("".join(sorted(file.sha256 for file in files)).encode()).hexdigest()


def template_hash(base_dir: Path) -> str:
    """The hash of a base's chat format; a scripted trainer's base has none and needs none."""
    if not (base_dir / "tokenizer.json").exists():
        return "t" * 64
    return Renderer.load(base_dir).template_hash


def upload(shop: Workshop, rows: list[dict[str, str]]) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        for row in rows:
            yield json.dumps(row, ensure_ascii=False).encode() + b"\n"

    received = datasets.receive(
        chunks(),
        upload=Upload(filename="data.jsonl", name="data"),
        caller=shop.caller,
        key=None,
        store=shop.store,
        database=shop.database,
        limits=UploadLimits(bytes=2**20, validation_wait_s=60.0),
    )
    dataset = asyncio.run(received).dataset
    assert dataset.status == "ready"
    return dataset.id
