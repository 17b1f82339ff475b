"""A small world in a database: a project with its callers, a base, a data set, and workers to run its jobs."""

import hashlib
from dataclasses import dataclass
from typing import Any

from core.db.transactions import Database, transaction
from core.domain import ids
from core.domain.adapters import AdapterFile, NewAdapter
from core.domain.bases import Base
from core.domain.datasets import Dataset
from core.domain.jobs import Claim, Job
from core.domain.keys import Caller, Role
from core.domain.training import Progress, TrainSpec
from core.domain.workers import WorkerInfo
from core.services import bases, jobs

POLICY = jobs.Policy(default_base=None, max_lora_rank=64, max_queued_jobs=10_000)
LEASE_S = 30.0


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def a_worker(
    memory_bytes: int = 2**34, *, capabilities: tuple[str, ...] = ("cpu",), draining: bool = False
) -> WorkerInfo:
    return WorkerInfo(
        id=ids.new("wk"),
        host="here",
        device="cpu",
        memory_bytes=memory_bytes,
        capabilities=capabilities,
        draining=draining,
    )


def a_caller(database: Database, *, project: str = "default", role: Role = Role.MEMBER) -> Caller:
    with transaction(database) as tx:
        owner = tx.projects.ensure(project)
    return Caller(key_id=ids.new("key"), project_id=owner.id, project=owner.name, role=role)


def a_base(database: Database, *, name: str = "nano", parameters: int = 5_000_000) -> Base:
    return bases.register(
        name=name,
        files=(AdapterFile(name="model.safetensors", sha256=sha256(name), bytes=1000),),
        fingerprint=sha256(f"fingerprint of {name}"),
        template_hash=sha256("template"),
        context_length=2048,
        parameters=parameters,
        database=database,
    )


def a_dataset(database: Database, caller: Caller, *, name: str = "rows", status: str = "ready") -> Dataset:
    dataset = Dataset(
        id=ids.new("ds"),
        project_id=caller.project_id,
        created_by=caller.key_id,
        name=name,
        version=1,
        status=status,  # type: ignore[arg-type]
        filename="rows.jsonl",
        sha256=sha256(name),
        bytes=10,
        object_key=f"blobs/{name}",
        summary=None,
        findings=(),
        metadata={},
        created_at=1,
    )
    with transaction(database) as tx:
        return tx.datasets.add(dataset)


def a_new_adapter(text: str = "weights") -> NewAdapter:
    return NewAdapter(
        sha256=sha256(text),
        manifest="{}",
        files=(AdapterFile(name="adapter_model.safetensors", sha256=sha256(text), bytes=len(text)),),
        template_hash=sha256("template"),
        system_prompt=None,
        r=8,
        step=10,
    )


def a_progress(step: int = 10, *, trained_tokens: int = 1000, loss: float = 2.5) -> Progress:
    return Progress(
        step=step,
        total_steps=100,
        epoch=step / 100,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=500.0,
        trained_tokens=trained_tokens,
        eta_seconds=3.0,
    )


@dataclass(frozen=True)
class World:
    """One project that can submit jobs."""

    database: Database
    caller: Caller
    base: Base
    dataset: Dataset

    @classmethod
    def of(cls, database: Database) -> "World":
        caller = a_caller(database)
        return cls(database, caller, a_base(database), a_dataset(database, caller))

    def submit(self, *, caller: Caller | None = None, **fields: Any) -> Job:
        return self.submitted(caller=caller, **fields).job

    def submitted(
        self,
        *,
        caller: Caller | None = None,
        key: str | None = None,
        policy: jobs.Policy = POLICY,
        woken: list[str] | None = None,
        **fields: object,
    ) -> jobs.Submitted:
        spec = TrainSpec.model_validate({"dataset": self.dataset.id, "name": "persona"} | fields)
        sent = spec.model_dump_json(exclude_unset=True)
        return jobs.submit(
            spec,
            sent,
            caller=caller or self.caller,
            key=key,
            request_sha256=sha256(sent),
            policy=policy,
            database=self.database,
            wake=(woken if woken is not None else []).append,
        )

    def claim(self, worker: WorkerInfo | None = None, *, lease_s: float = LEASE_S) -> Claim:
        held = self.try_claim(worker, lease_s=lease_s)
        assert held is not None
        return held

    def try_claim(self, worker: WorkerInfo | None = None, *, lease_s: float = LEASE_S) -> Claim | None:
        return jobs.claim(worker=worker or a_worker(), database=self.database, lease_s=lease_s)

    def job(self, job_id: str) -> Job:
        return jobs.get(job_id, caller=self.caller, database=self.database)

    def statuses(self, job_id: str) -> list[object]:
        """The statuses that a job's events tell, checked to be numbered without gaps."""
        page = jobs.events(job_id, caller=self.caller, database=self.database, limit=1000)
        assert [event.seq for event in page.data] == list(range(1, len(page.data) + 1))
        return [event.data["status"] for event in page.data if event.type == "status"]
