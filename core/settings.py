"""Every setting, once: frozen, unknown names refused, units in names.

Read at the edges (api.main, worker.app, cli, core.runtime), made into objects by `runtime.build`, then gone.
Environment: `BLUELORA_` and the field's name in capitals, e.g. `BLUELORA_DATABASE_URL`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


def _no_trailing_slash(url: str) -> str:
    return url.rstrip("/")


class Settings(BaseSettings):
    """The defaults run `bluelora up`: everything lies in `data_dir`, nothing has to be installed."""

    model_config = SettingsConfigDict(env_prefix="BLUELORA_", frozen=True, extra="forbid")

    data_dir: Path = Path("bluelora-data")
    """Scratch, caches and, unless the URLs below say otherwise, all that is kept."""
    database_url: SecretStr | None = None
    """SQLAlchemy URL; None is SQLite in `data_dir`. `postgresql://…` is read as psycopg 3."""
    broker_url: SecretStr | None = None
    """`redis://…` or `redis+socket://…`; None means that no worker is woken by hint (the sweep still finds jobs)."""
    storage_url: SecretStr | None = None
    """`file:///dir`, `s3://bucket/prefix` or `memory://`; None is a folder in `data_dir`."""
    engine_url: Annotated[tuple[Annotated[str, AfterValidator(_no_trailing_slash)], ...], NoDecode] = ()
    """Engines, comma separated; each is asked which base it serves."""
    engine_api_key_file: Path | None = None
    """A file with the key that engines ask of us; None sends none."""
    engine_adapter_dir: Path | None = None
    """A folder that the API and the engines share, where adapters are laid for loading; None is in `data_dir`."""
    admin_key_file: Path | None = None
    """A file whose text becomes an admin key of project `default` when the API starts."""
    key_pepper_file: Path | None = None
    """Secret mixed into stored key hashes; None is a file in `data_dir`, made on first start."""
    base: str | None = None
    """Name of the base that jobs get when they name none; None works while exactly one is imported."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1", "localhost", "::1")
    """Values of the Host header that are served; `*` serves all."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 8 * 2**30
    max_uploads: Annotated[int, Field(ge=1)] = 16
    """Of one API process at once; more get 429. Each has a process that inspects it, of up to 1 GiB."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 2**20
    """Limit of every body but an upload's."""
    validation_wait_s: Seconds = 20.0
    """How long `POST /datasets` waits for validation before it answers 202."""
    max_lora_rank: Annotated[int, Field(ge=1, le=1024)] = 64
    max_queued_jobs: Annotated[int, Field(ge=1)] = 10_000
    """Per project; more get 429."""

    lease_s: Seconds = 30.0
    heartbeat_s: Seconds = 10.0
    sweep_s: Seconds = 5.0
    stall_s: Seconds = 900.0
    """Without progress for this long (or 20 median steps, if longer) a trainer counts as stalled."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trainer_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the trainer on a CPU; 0 leaves it to torch."""

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, data: object) -> object:
        if isinstance(data, dict):
            for name in ("engine_url", "allowed_hosts"):
                if isinstance(data.get(name), str):
                    data[name] = tuple(part.strip() for part in data[name].split(",") if part.strip())
        return data

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_s < 2 * self.heartbeat_s:
            raise ValueError("lease_s must be at least twice heartbeat_s, or one late heartbeat loses the job")
        return self

    def sql_url(self) -> str:
        """The database's URL, with the driver spelled out; secrets included, so never log it."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir.absolute() / 'bluelora.db'}"
        url = self.database_url.get_secret_value()
        for short in ("postgres://", "postgresql://"):
            if url.startswith(short):
                return "postgresql+psycopg://" + url.removeprefix(short)
        return url

    def objects_url(self) -> str:
        """The object store's URL."""
        if self.storage_url is None:
            return (self.data_dir.absolute() / "objects").as_uri()
        return self.storage_url.get_secret_value()

    def adapters_dir(self) -> Path:
        """Where adapters are laid for engines to load."""
        return self.engine_adapter_dir or self.data_dir.absolute() / "engine-adapters"
