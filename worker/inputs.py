"""Lays out what one attempt reads: base, data sets, newest good checkpoint; and says so in a Run."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.db.transactions import Database
from core.domain.datasets import Dataset
from core.domain.jobs import Checkpoint, Claim
from core.domain.training import TrainSpec
from core.services import bases, checkpoints, datasets, jobs
from core.storage import bundles
from core.storage.objects import Store
from worker import messages

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where attempts of this worker run: what they read from, how long they may be silent.

    `data_dir` holds caches, scratch folders and logs; one filesystem, as bundles are renamed within it.
    """

    database: Database
    store: Store
    data_dir: Path
    device: Literal["cpu", "cuda"]
    lease_s: float
    heartbeat_s: float
    stall_s: float

    @property
    def scratch(self) -> Path:
        """Private folders of attempts."""
        return self.data_dir / "scratch"

    @property
    def bases(self) -> Path:
        """Bases by fingerprint."""
        return self.data_dir / "cache" / "bases"
