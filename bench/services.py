"""A real API process for service rows: a fresh data directory, bluelm-nano imported, an admin key, a given engine."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import processes
from bench.processes import Serving

NANO: Final = processes.ROOT / "assets" / "bluelm-nano"
BASE: Final = "bluelm-nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The running API and the admin's key."""

    process: Serving
    key: str

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"}


@contextlib.contextmanager
def running(folder: Path, *, engine_url: str = "") -> Iterator[Service]:
    """Run `python -m api` on a new data directory in `folder`, on SQLite, until the block ends."""
    data, key = folder / "data", secrets.token_urlsafe(32)
    processes.call("cli", "import", str(NANO), "--name", BASE, "--data-dir", str(data))
    (data / "admin.key").write_text(key)
    port = processes.free_port()
    environment = {
        "BLUELORA_DATA_DIR": str(data),
        "BLUELORA_ADMIN_KEY_FILE": str(data / "admin.key"),
        "BLUELORA_ENGINE_URL": engine_url,
        "BLUELORA_PORT": str(port),
    }
    with processes.serving(
        "api", port=port, alive="/healthz", log=folder / "api.log", environment=environment
    ) as process:
        yield Service(process=process, key=key)
