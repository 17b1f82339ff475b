"""The one place that turns settings into objects: one frozen Runtime a process, passed to routes and tasks only."""

import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from core import secretfiles
from core.db import schema
from core.db.transactions import Database, connect
from core.domain.adapters import Adapter
from core.errors import Unavailable
from core.inference.client import Engines
from core.services import outbox
from core.services.jobs import Policy
from core.services.pagers import Pagers
from core.services.planners import Planners
from core.services.renderers import Renderers
from core.services.uploads import Places
from core.services.usage import Ledger
from core.settings import Settings
from core.storage import bundles
from core.storage.objects import Store
from core.wake import Relay, Wake

__all__ = ["Database", "Runtime", "build", "open_database"]
"""Database is named here for those who hold one and may not open it: core.db belongs to the services."""

LEAST_PEPPER_BYTES: Final = 16
ENGINE_FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors", "manifest.json"})


class PepperUnusable(Unavailable):
    """The secret that keys are hashed with can't be read, or is none."""

    code = "pepper_unusable"


class EngineKeyUnusable(Unavailable):
    """The key that engines ask of us can't be read."""

    code = "engine_key_unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The parts of one process. `relay` is None without a broker; it and `usage` are idle until they are started."""

    settings: Settings
    database: Database
    store: Store
    relay: Relay | None
    pepper: bytes
    renderers: Renderers
    planners: Planners
    pagers: Pagers
    engines: Engines
    usage: Ledger
    uploads: Places

    @property
    def wake(self) -> Wake:
        """Tells workers of a job; without a broker nobody can be told, and the workers' sweep finds it."""
        return _nobody if self.relay is None else self.relay.hint

    @property
    def policy(self) -> Policy:
        """What is given and allowed to jobs."""
        return Policy(
            default_base=self.settings.base,
            max_lora_rank=self.settings.max_lora_rank,
            max_queued_jobs=self.settings.max_queued_jobs,
        )

    @property
    def cache_dir(self) -> Path:
        """Where this machine keeps bases, each in a folder named by its fingerprint."""
        return self.settings.data_dir.absolute() / "cache" / "bases"

    @property
    def broker_url(self) -> str | None:
        """The broker's URL, secrets included, so never log it."""
        url = self.settings.broker_url
        return None if url is None else url.get_secret_value()

    def close(self) -> None:
        """Stop the relay and give back connections."""
        if self.relay is not None:
            self.relay.stop()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(settings: Settings) -> Runtime:
    """Open what the settings name.

    Raises:
        SchemaOutdated: The database needs an upgrade first; the message names the command.
        DatabaseUnavailable, UnknownStore, UnknownBroker, PepperUnusable, EngineKeyUnusable: A setting does not lead anywhere.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = open_database(settings)
    broker_url = None if settings.broker_url is None else settings.broker_url.get_secret_value()
    store = Store.open(settings.objects_url())
    return Runtime(
        settings=settings,
        database=database,
        store=store,
        relay=None if broker_url is None else _relay(broker_url, database),
        pepper=_pepper(settings),
        renderers=Renderers(store=store, cache_dir=settings.data_dir.absolute() / "cache" / "texts"),
        planners=Planners(),
        pagers=Pagers(),
        engines=_engines(settings, store),
        usage=Ledger(database),
        uploads=Places(settings.max_uploads),
    )


def open_database(settings: Settings) -> Database:
    """Open the database alone, for what needs nothing else; the caller closes it.

    Raises:
        SchemaOutdated: The database needs an upgrade first; the message names the command.
        DatabaseUnavailable: It does not answer.
    """
    database = connect(settings.sql_url())
    schema.require_current(database)
    return database


def _relay(broker_url: str, database: Database) -> Relay:
    return Relay(broker_url, unsent=partial(outbox.unsent, database), mark=partial(outbox.mark, database=database))


def _engines(settings: Settings, store: Store) -> Engines:
    def lay(adapter: Adapter, folder: Path) -> None:
        # A checkpoint's bundle holds an optimizer too, which is large and a pickle.
        bundles.fetch([file for file in adapter.files if file.name in ENGINE_FILES], folder, store)

    path = settings.engine_api_key_file
    try:
        api_key = None if path is None else path.read_text().strip()
    except OSError as error:
        raise EngineKeyUnusable(
            f"The engine's key file can't be read: {error.strerror}.", param="engine_api_key_file"
        ) from error
    return Engines(settings.engine_url, api_key=api_key, adapter_dir=settings.adapters_dir(), lay=lay)


def _nobody(job_id: str) -> None:
    """Wake no one."""


def _pepper(settings: Settings) -> bytes:
    path = settings.key_pepper_file
    if path is None:
        path = settings.data_dir.absolute() / "pepper"
        secretfiles.ensure(path, text=secrets.token_hex(32))
    try:
        pepper = path.read_bytes().strip()
    except OSError as error:
        raise PepperUnusable(
            f"The key pepper file can't be read: {error.strerror}.", param="key_pepper_file"
        ) from error
    if len(pepper) < LEAST_PEPPER_BYTES:
        raise PepperUnusable(
            f"The key pepper has {len(pepper)} bytes; it needs {LEAST_PEPPER_BYTES} at least.", param="key_pepper_file"
        )
    return pepper
