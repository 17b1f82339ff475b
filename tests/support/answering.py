"""A service with a real engine behind it: a tiny base, and adapters that answer differently."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from core.domain.adapters import Adapter, NewAdapter
from core.domain.bases import Base
from core.runtime import Runtime
from core.services import bases, jobs
from core.storage import bundles
from core.storage.files import sha256_of
from core.text.chat import Renderer
from tests.support import engines, registry, tiny_base
from tests.support.commanded import Restartable
from tests.support.live import Live, serving

PERSONA = "你是甄嬛。"


@dataclass(frozen=True)
class Answering:
    """The running parts: service, engine, and the base's folder."""

    live: Live
    engine: engines.Engine | Restartable
    base_dir: Path
    base: Base

    def adapter(
        self, client: httpx.Client, folder: Path, *, name: str, seed: int, std: float = 0.08, **facts: str
    ) -> Adapter:
        """Register an adapter with random weights, as a job that has trained it would."""
        runtime = self.live.runtime
        registry.dataset(runtime, client)
        held = registry.claimed(runtime, registry.job(client, name=name))
        bundle = engines.adapter(folder / f"{name}-{seed}", self.base_dir, seed=seed, std=std)
        made = NewAdapter(
            sha256=sha256_of(bundle / "manifest.json"),
            manifest=(bundle / "manifest.json").read_text(),
            files=bundles.upload(bundle, runtime.store),
            template_hash=facts.get("template_hash", self.base.template_hash),
            system_prompt=facts.get("system_prompt"),
            r=4,
            step=1,
        )
        return jobs.succeed(held, adapter=made, reason="completed", database=runtime.database)


@contextlib.contextmanager
def answering(folder: Path, *, base_dir: Path | None = None, **settings: object) -> Iterator[Answering]:
    """Serve the migrated database of a folder, with an engine on a tiny base or the given one, until the block ends."""
    base_dir = base_dir or engines.endless(folder / "base", tiny_base.Shape())
    with engines.running(base_dir) as engine:
        connected = {"engine_url": engine.url, "engine_api_key_file": folder / "engine.key"}
        with serving(folder, **connected | settings) as live:
            base = register(live.runtime, base_dir)
            yield Answering(live=live, engine=engine, base_dir=base_dir, base=base)


def register(runtime: Runtime, folder: Path, *, name: str = "tiny") -> Base:
    """Make a base known with its files, as an import does."""
    renderer = Renderer.load(folder)
    return bases.register(
        name=name,
        files=bundles.upload(folder, runtime.store),
        fingerprint=sha256_of(folder / "model.safetensors"),
        template_hash=renderer.template_hash,
        context_length=renderer.context_length,
        parameters=1000,
        database=runtime.database,
    )
