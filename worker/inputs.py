"""Lays out what one attempt reads: base, data sets, newest good checkpoint; and says so in a Run."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.domain.jobs import Claim, Phase
from core.domain.training import TrainSpec
from core.runtime import Database
from core.services import bases, datasets, jobs
from core.storage import bundles
from core.storage.objects import Store
from worker import messages
from worker.leases import Lease

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where attempts of this worker run: what they read from, and how long they may be silent.

    `data_dir` is absolute and one filesystem: bundles are renamed within it.
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
        """Bases, by fingerprint."""
        return self.data_dir / "cache" / "bases"

    def cached(self) -> tuple[str, ...]:
        """List the fingerprints of the bases that lie here."""
        return tuple(sorted(path.name for path in self.bases.glob("[!.]*")))


def prepare(claim: Claim, folder: Path, *, site: Site, lease: Lease) -> messages.Run:
    """Bring everything that the attempt reads to this disk, verified.

    Args:
        claim: What is to run.
        folder: The attempt's own, empty.
        site: Where it comes from.
        lease: Checked between the parts: the next is not worth fetching for an attempt that is lost.

    Raises:
        AttemptLost: The lease is gone.
        BrokenBundle: The base's stored bytes have changed.
        Problem: Database or store do not answer, or something is gone.
        OSError: This disk fails.
    """
    spec = TrainSpec.model_validate_json(claim.job.spec_resolved)
    base = bases.get(claim.job.base_id, database=site.database)
    base_dir = bases.fetch(base, store=site.store, cache_dir=site.bases)
    lease.check()
    dataset = _dataset(claim, claim.job.dataset_id, folder / "dataset", site=site)
    validation = None
    if claim.job.validation_dataset_id is not None:
        validation = _dataset(claim, claim.job.validation_dataset_id, folder / "validation", site=site)
    lease.check()
    checkpoint = _newest_good_checkpoint(claim, folder / "resume", site=site, lease=lease)
    output = folder / "output"
    output.mkdir()
    return messages.Run(
        job_id=claim.job.id,
        attempt=claim.attempt,
        spec=spec,
        base_dir=str(base_dir),
        base_fingerprint=base.fingerprint,
        template_hash=base.template_hash,
        dataset_path=str(dataset.path),
        dataset_sha256=dataset.sha256,
        validation_path=None if validation is None else str(validation.path),
        validation_sha256=None if validation is None else validation.sha256,
        checkpoint_dir=None if checkpoint is None else str(checkpoint),
        output_dir=str(output),
        device=site.device,
    )


@dataclass(frozen=True, slots=True)
class _Laid:
    path: Path
    sha256: str


def _dataset(claim: Claim, dataset_id: str, path: Path, *, site: Site) -> _Laid:
    dataset = datasets.resolve(dataset_id, project_id=claim.job.project_id, database=site.database)
    datasets.fetch_to(dataset, path, site.store)
    return _Laid(path, dataset.sha256)


def _newest_good_checkpoint(claim: Claim, folder: Path, *, site: Site, lease: Lease) -> Path | None:
    """Fetch the furthest checkpoint that is whole; those that are not are taken out of use, with an event."""
    checkpoint = claim.resume
    while checkpoint is not None:
        lease.check()
        try:
            fetched = bundles.fetch_bundle(checkpoint.manifest_sha256, folder, site.store)
        except bundles.BrokenBundle as broken:
            log.warning("checkpoint %d of %s is damaged: %s", checkpoint.step, claim.job.id, broken)
        else:
            said = f"The attempt resumes from the checkpoint of step {checkpoint.step}."
            jobs.enter(claim, Phase.LOADING, said, database=site.database, lease_s=site.lease_s)
            return fetched
        rejected = checkpoint
        checkpoint = jobs.reject_checkpoint(claim, rejected, database=site.database, lease_s=site.lease_s)
    return None
