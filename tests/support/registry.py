"""Rows that workers and imports would make: bases, and adapters of finished jobs, through the same services."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import httpx

from core.db.clocks import wall
from core.db.transactions import transaction
from core.domain import ids
from core.domain.adapters import Adapter, NewAdapter
from core.domain.bases import Base
from core.domain.datasets import Dataset, Summary
from core.domain.jobs import Claim, Status
from core.domain.workers import BF16, WorkerInfo
from core.runtime import Runtime
from core.services import bases, jobs, keys
from core.storage import bundles

WORKER = WorkerInfo(id="wk_tests", host="here", device="cpu", memory_bytes=2**34, capabilities=(BF16,))
ROWS = "".join(
    json.dumps({"instruction": f"第{n}问", "input": "", "output": f"第{n}答"}, ensure_ascii=False) + "\n"
    for n in range(4)
).encode()


def base(runtime: Runtime, *, name: str, context_length: int = 128) -> Base:
    """Make a base known that has no files: enough for everything but training and answering."""
    return bases.register(
        name=name,
        files=(),
        fingerprint=hashlib.sha256(name.encode()).hexdigest(),
        template_hash="0" * 64,
        context_length=context_length,
        parameters=1000,
        database=runtime.database,
    )


def sized_base(runtime: Runtime, *, name: str, sizes: Mapping[str, int]) -> Base:
    """Make a base known that has no file but its config.json: enough to import adapters for it."""
    config = runtime.store.put("config.json", json.dumps(dict(sizes) | {"model_type": "llama"}).encode())
    return bases.register(
        name=name,
        files=(config,),
        fingerprint=config.sha256,
        template_hash="0" * 64,
        context_length=128,
        parameters=1000,
        database=runtime.database,
    )


def dataset(runtime: Runtime, client: httpx.Client, *, name: str = "rows") -> str:
    """Make a ready data set of the client's project known and give its id; its bytes are stored too.

    Written as a row: an upload starts a process that inspects it, which most tests need not wait for.
    """
    token = client.headers["authorization"].removeprefix("Bearer ")
    caller = keys.authenticate(token, database=runtime.database, pepper=runtime.pepper)
    sha256 = hashlib.sha256(ROWS + name.encode()).hexdigest()
    summary = Summary(
        format="alpaca",
        container="jsonl",
        rows=4,
        turns=8,
        prompt_characters=12,
        answer_characters=12,
        longest_row_characters=6,
        duplicates=0,
        columns=("instruction", "input", "output"),
    )
    with transaction(runtime.database) as tx:
        there = tx.datasets.same(name, sha256, project_id=caller.project_id)
        made = there or tx.datasets.add(
            Dataset(
                id=ids.new("ds"),
                project_id=caller.project_id,
                created_by=caller.key_id,
                name=name,
                version=0,
                status="ready",
                filename="rows.jsonl",
                sha256=sha256,
                bytes=len(ROWS),
                summary=summary,
                findings=(),
                metadata={},
                created_at=wall(),
                object_key=f"blobs/{sha256[:32]}",
            )
        )
    return made.id


def job(client: httpx.Client, *, name: str = "adapter", **spec: object) -> str:
    """Submit a job on the data set `rows` and give its id."""
    answer = client.post("/jobs", json={"dataset": "rows", "name": name} | spec)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def claimed(runtime: Runtime, job_id: str) -> Claim:
    """Claim jobs as a worker does, until this one is held; those before it are given back."""
    others = []
    while (claim := jobs.claim(worker=WORKER, database=runtime.database, lease_s=60.0)) is not None:
        if claim.job.id == job_id:
            break
        others.append(claim)
    assert claim is not None, f"{job_id} can't be claimed"
    for other in others:
        jobs.release(other, to=Status.QUEUED, database=runtime.database)
    return claim


def adapter(runtime: Runtime, client: httpx.Client, folder: Path, *, name: str = "adapter", **facts: str) -> Adapter:
    """Run a job as far as rows go: a sealed bundle, stored and registered."""
    dataset(runtime, client)
    held = claimed(runtime, job(client, name=name))
    bundle = folder / held.job.id
    bundle.mkdir()
    (bundle / "adapter_config.json").write_text('{"r": 8}')
    (bundle / "adapter_model.safetensors").write_bytes(held.job.id.encode())
    sealed = bundles.seal(bundle, {"step": 3, "job": held.job.id} | facts)
    files = bundles.upload(bundle, runtime.store)
    made = NewAdapter(
        sha256=sealed.manifest_sha256,
        manifest=(bundle / "manifest.json").read_text(),
        files=files,
        template_hash=facts.get("template_hash", "0" * 64),
        system_prompt=facts.get("system_prompt"),
        r=8,
        step=3,
    )
    return jobs.succeed(held, adapter=made, reason="completed", database=runtime.database)
