"""The tables, private to core.db. `migrations/` holds how they came to be; a test holds the two equal.

Times named `*_at` are whole Unix seconds. `lease_until`, `not_before` and `held_since` are on the lease clock
(core/db/clocks.py), which no wall-clock jump moves; `boot_id` says of which boot. Ids sort by creation, so they are the paging order.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", String(40), primary_key=True)


def _project() -> Column[str]:
    return Column("project_id", ForeignKey("projects.id"), nullable=False)


def _at(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


projects: Final = Table(
    "projects",
    metadata,
    _id(),
    Column("name", String(64), nullable=False, unique=True),
    _at("created_at"),
)

keys: Final = Table(
    "keys",
    metadata,
    _id(),
    _project(),
    Column("name", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("hint", String(20), nullable=False),
    Column("created_by", String(40)),
    _at("created_at"),
    _at("revoked_at", nullable=True),
    _at("last_used_at", nullable=True),
    CheckConstraint("role IN ('admin', 'member', 'read', 'infer')", name="role"),
    Index(None, "project_id", "id"),
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    _project(),
    Column("key_id", String(40)),
    Column("action", String(40), nullable=False),
    Column("target", String(200), nullable=False),
    Column("details", JSON, nullable=False),
    _at("created_at"),
    Index(None, "project_id", "id"),
)

datasets: Final = Table(
    "datasets",
    metadata,
    _id(),
    _project(),
    Column("created_by", String(40), nullable=False),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String(12), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("object_key", String(200)),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("summary", JSON(none_as_null=True)),
    Column("findings", JSON, nullable=False),
    Column("tokens", JSON(none_as_null=True)),
    Column("tokens_status", String(12), nullable=False, server_default="pending"),
    Column("metadata", JSON, nullable=False),
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("boot_id", String(40), nullable=False, server_default=""),
    _at("created_at"),
    _at("deleted_at", nullable=True),
    UniqueConstraint("project_id", "name", "version"),
    CheckConstraint("status IN ('processing', 'ready', 'invalid')", name="status"),
    Index(None, "project_id", "id"),
    Index(None, "sha256"),
)

bases: Final = Table(
    "bases",
    metadata,
    _id(),
    Column("name", String(64), nullable=False, unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("template_hash", String(64), nullable=False),
    Column("context_length", Integer, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("files", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    _at("created_at"),
)

jobs: Final = Table(
    "jobs",
    metadata,
    _id(),
    _project(),
    Column("created_by", String(40), nullable=False),
    Column("name", String(64), nullable=False),
    Column("base_id", ForeignKey("bases.id"), nullable=False),
    Column("dataset_id", ForeignKey("datasets.id"), nullable=False),
    Column("validation_dataset_id", ForeignKey("datasets.id")),
    Column("spec_sent", Text, nullable=False),
    Column("spec_resolved", Text, nullable=False),
    Column("spec_sha256", String(64), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("status", String(10), nullable=False),
    Column("phase", String(12), nullable=False),
    Column("status_reason", String(60)),
    Column("priority", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("refunds", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("worker_id", String(40)),
    Column("lease_until", Double, nullable=False),
    Column("boot_id", String(40), nullable=False),
    _at("heartbeat_at", nullable=True),
    Column("progress", JSON, nullable=False),
    _at("progress_at", nullable=True),
    _at("cancel_requested_at", nullable=True),
    _at("pause_requested_at", nullable=True),
    _at("finish_requested_at", nullable=True),
    Column("failure", JSON(none_as_null=True)),
    Column("event_seq", Integer, nullable=False),
    Column("retry_of", String(40)),
    _at("created_at"),
    _at("started_at", nullable=True),
    _at("ended_at", nullable=True),
    _at("deleted_at", nullable=True),
    CheckConstraint("status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name="status"),
    Index(None, "project_id", "id"),
    Index(None, "status", "priority", "id"),
    Index(None, "dataset_id"),
)

attempts: Final = Table(
    "attempts",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker_id", String(40), nullable=False),
    Column("device", String(100), nullable=False),
    Column("gpu_seconds", Double, nullable=False),
    Column("trained_tokens", BigInteger, nullable=False),
    Column("held_since", Double, nullable=False),
    _at("started_at"),
    _at("ended_at", nullable=True),
    Column("outcome", String(20)),
    Column("failure", JSON(none_as_null=True)),
    Column("resumed_step", Integer),
    Column("resumed_tokens", BigInteger, nullable=False),
)

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("manifest_sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),
    _at("created_at"),
    CheckConstraint("state IN ('ready', 'corrupt', 'dropped')", name="state"),
)

adapters: Final = Table(
    "adapters",
    metadata,
    _id(),
    _project(),
    Column("created_by", String(40), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("name", String(64), nullable=False),
    Column("version", Integer),
    Column("base_id", ForeignKey("bases.id"), nullable=False),
    Column("job_id", ForeignKey("jobs.id")),
    Column("step", Integer),
    Column("attempt", Integer),
    Column("manifest_sha256", String(64), nullable=False),
    Column("template_hash", String(64), nullable=False),
    Column("system_prompt", Text),
    Column("r", Integer, nullable=False),
    Column("files", JSON, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    _at("created_at"),
    _at("deleted_at", nullable=True),
    UniqueConstraint("project_id", "name", "version"),
    CheckConstraint("kind IN ('final', 'checkpoint', 'imported')", name="kind"),
    CheckConstraint("(kind = 'checkpoint') = (version IS NULL)", name="version"),
    Index(None, "project_id", "id"),
    Index(
        "uq_adapters_final_job_id",
        "job_id",
        unique=True,
        sqlite_where=text("kind = 'final'"),
        postgresql_where=text("kind = 'final'"),
    ),
)

adapter_versions: Final = Table(
    "adapter_versions",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("last_version", Integer, nullable=False),
)
"""The last version number given to a name, so that none is ever used again."""

aliases: Final = Table(
    "aliases",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    _at("moved_at"),
    Index(None, "adapter_id"),
)

events: Final = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", String(12), nullable=False),
    Column("level", String(5), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    _at("created_at"),
)

idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("status", Integer),
    Column("response", Text),
    _at("created_at"),
)

outbox: Final = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("payload", JSON, nullable=False),
    _at("created_at"),
    _at("sent_at", nullable=True),
    Index(None, "sent_at", "id"),
)

workers: Final = Table(
    "workers",
    metadata,
    _id(),
    Column("host", String(255), nullable=False),
    Column("device", String(100), nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("bases", JSON, nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("draining", Boolean, nullable=False),
    _at("started_at"),
    _at("last_seen"),
)

usage: Final = Table(
    "usage",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("project_id", String(40), primary_key=True),
    Column("key_id", String(40), primary_key=True),
    Column("adapter_id", String(40), primary_key=True, server_default=""),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
)
