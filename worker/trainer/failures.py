"""Why an attempt failed, in words its owner can act on. The traceback goes to the log, never into the message."""

import errno
from typing import Final

import torch

from core.domain.checkpoints import DamagedCheckpoint
from core.domain.jobs import RETRIES, Failure, FailureClass
from core.errors import Problem, StorageFull, Unavailable
from core.ml.model import BadAdapter

# How libraries that swallow errno say that a disk is full: Rust's io::Error, torch's zip writer, the C library.
DISK_FULL_WORDS: Final = (
    "os error 28",
    "os error 122",
    "No space left on device",
    "PytorchStreamWriter failed writing",
    "] . unexpected pos ",
)


class AttemptFailed(Exception):
    """The attempt can't succeed, for a reason that has a name."""

    def __init__(self, code: str, message: str, failure_class: FailureClass) -> None:
        super().__init__(message)
        self.failure = failure(code, message, failure_class)


class UserError(AttemptFailed):
    """The owner must change the data set or the spec; trying again changes nothing."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, FailureClass.USER_ERROR)


class NotFinite(AttemptFailed):
    """Loss or gradient left the finite numbers at `step`."""

    def __init__(self, step: int) -> None:
        message = (
            f"Loss or gradient was not finite at step {step}. "
            "Lower learning_rate (or lora_alpha), add warmup_ratio, or lower max_grad_norm, and create the job again."
        )
        super().__init__("nan_loss", message, FailureClass.NAN_LOSS)
        self.step = step


class Damaged(AttemptFailed):
    """Bytes are not what their hash says."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, FailureClass.INTEGRITY)


class DiskFull(AttemptFailed):
    """The worker's disk has no room for the next checkpoint or adapter."""

    def __init__(self) -> None:
        message = "The worker's disk is full. The job goes on from its last checkpoint once there is room again."
        super().__init__("disk_full", message, FailureClass.DISK_FULL)


def failure(code: str, message: str, failure_class: FailureClass) -> Failure:
    """Make the value that a `Failed` carries; classes with retries left are retryable."""
    return Failure(
        code=code, message=message, failure_class=failure_class, retryable=RETRIES[failure_class].retries > 0
    )


def classify(error: BaseException) -> Failure:
    """Name any exception that ended an attempt."""
    if isinstance(error, AttemptFailed):
        return error.failure
    if is_disk_full(error):
        return DiskFull().failure
    if is_out_of_memory(error):
        message = (
            "The device ran out of memory. Lower per_device_train_batch_size (raise gradient_accumulation_steps to "
            "keep the step), max_length or r, and create the job again."
        )
        return failure("out_of_memory", message, FailureClass.OOM)
    if isinstance(error, Problem):
        return failure(error.code, error.detail, _class_of(error))
    if isinstance(error, BadAdapter):
        return failure("bad_adapter", f"The trained adapter failed its check: {error}.", FailureClass.INTEGRITY)
    message = f"The trainer hit an internal error ({type(error).__name__}); the worker's log has the details."
    return failure("internal_error", message, FailureClass.INFRA)


def _class_of(error: Problem) -> FailureClass:
    match error:
        case DamagedCheckpoint():
            return FailureClass.INTEGRITY
        case StorageFull():
            return FailureClass.DISK_FULL
        case Unavailable():
            return FailureClass.INFRA
        case _:
            return FailureClass.USER_ERROR


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out, on the device or on the host."""
    # torch's CPU allocator raises a bare RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def is_disk_full(error: BaseException) -> bool:
    """Say whether a write failed for want of room."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return any(words in str(error) for words in DISK_FULL_WORDS)
