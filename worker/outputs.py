"""Takes what a trainer published on this disk into the store, verified by its manifest first."""

import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from core.domain.adapters import NewAdapter
from core.domain.training import Checkpointed, TrainSpec
from core.storage import bundles
from core.storage.files import sha256_of
from core.storage.objects import Store
from worker.child import ChildGarbled


class Facts(BaseModel):
    """What a manifest says of its adapter, as far as a row repeats it. `step` is the one the weights are from."""

    template_hash: str
    system_prompt: str | None
    step: int
    spec: TrainSpec


_FACTS: Final = TypeAdapter(Facts)


def store_checkpoint(event: Checkpointed, folder: Path, *, store: Store) -> None:
    """Verify a checkpoint and put its files, manifest last.

    Raises:
        BrokenBundle: A file is not what the manifest says, or the manifest not what the trainer said.
        ChildGarbled: The path leads out of the attempt's folder.
        StorageFull: No room in the store.
        Unavailable: The store does not answer.
    """
    path = _inside(event.path, folder)
    bundles.verify(path, event.manifest_sha256)
    bundles.upload(path, store)


def drop(event: Checkpointed, folder: Path) -> None:
    """Remove the copy on this disk of a checkpoint that the store has."""
    shutil.rmtree(_inside(event.path, folder), ignore_errors=True)


def store_adapter(bundle_dir: str, folder: Path, *, store: Store) -> NewAdapter:
    """Verify a final bundle, put its files, and say what its row shall say; raises as `store_checkpoint` does."""
    path = _inside(bundle_dir, folder)
    manifest = path / bundles.MANIFEST
    manifest_sha256 = sha256_of(manifest)
    files = bundles.verify(path, manifest_sha256)
    text = manifest.read_text()
    try:
        facts = _FACTS.validate_json(text)
    except ValidationError as error:
        raise bundles.BrokenBundle("The adapter's manifest does not say what it was made from.") from error
    bundles.upload(path, store)
    return NewAdapter(
        sha256=manifest_sha256,
        manifest=text,
        files=files,
        template_hash=facts.template_hash,
        system_prompt=facts.system_prompt,
        r=facts.spec.r,
        step=facts.step,
    )


def _inside(path: str, folder: Path) -> Path:
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(folder.resolve()) or resolved == folder.resolve():
        raise ChildGarbled("the trainer named a folder that is not its own")
    return resolved
