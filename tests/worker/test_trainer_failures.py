"""Whatever ends an attempt gets a name, a class and words without traceback or path."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from core.domain.checkpoints import DamagedCheckpoint
from core.domain.generation import InvalidMessages
from core.errors import StorageFull, Unavailable
from core.ml.model import BadAdapter
from worker.trainer.failures import NotFinite, UserError, classify


def _raised(write: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:
        write()
    return caught.value


def test_a_full_disk_is_known_from_whoever_wrote(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    errors = [
        _raised(lambda: full.write_text("x")),
        _raised(lambda: torch.save({"a": torch.ones(1 << 16)}, full)),
        # As it comes from a real full disk; safetensors renames into place, so no device can stand in for one.
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ]
    for error in errors:
        failure = classify(error)
        assert (failure.code, failure.failure_class, failure.retryable) == ("disk_full", "disk_full", True), error
    assert full.is_char_device()


def test_torchs_own_allocator_running_dry_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert classify(caught.value).failure_class == "oom"


@pytest.mark.parametrize(
    ("error", "code", "failure_class"),
    [
        (torch.OutOfMemoryError("CUDA out of memory at /opt/x"), "out_of_memory", "oom"),
        (MemoryError(), "out_of_memory", "oom"),
        (UserError("no_effect", "The trained adapter changes no answer."), "no_effect", "user_error"),
        (NotFinite(7), "nan_loss", "nan_loss"),
        (InvalidMessages("Line 3: no."), InvalidMessages.code, "user_error"),
        (DamagedCheckpoint("config.json is missing."), "damaged_checkpoint", "integrity"),
        (StorageFull("No room."), "storage_full", "disk_full"),
        (Unavailable("No answer."), "unavailable", "infra"),
        (BadAdapter("a tensor is missing"), "bad_adapter", "integrity"),
        (OSError(errno.EIO, "I/O error", "/secret/path"), "internal_error", "infra"),
        (KeyError("/secret/path"), "internal_error", "infra"),
    ],
)
def test_every_error_has_a_class(error: Exception, code: str, failure_class: str) -> None:
    failure = classify(error)
    assert (failure.code, failure.failure_class) == (code, failure_class)
    assert failure.message.endswith(".")
    assert "/" not in failure.message
    assert failure.retryable == (failure_class not in {"user_error", "nan_loss"})
