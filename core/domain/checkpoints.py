"""What can be wrong with a model folder, one class per cause.

    Unsupported
    ├── UnsupportedCheckpoint   a kind of model that is not converted here
    │   ├── LongContextCheckpoint   BlueLM's 32K variants (NTK-mixed RoPE)
    │   └── QuantisedCheckpoint     4-bit, GPTQ, AWQ
    └── NoChatFormat            a base that has no way to write a conversation
    Invalid
    ├── DamagedCheckpoint       missing, torn, altered or non-finite
    └── UnsafeCheckpoint        code in a pickle, a link out of the folder
    StorageFull
    └── NoRoomForBase
    NotFound
    └── CheckpointNotFound
    Unavailable
    └── HubUnavailable

Knows no files and no tensors: core/ml reads them.
"""

from core.errors import Invalid, NotFound, StorageFull, Unavailable, Unsupported


class UnsupportedCheckpoint(Unsupported):
    """The folder holds a model whose layout the importer does not know; converting it would give wrong answers."""

    code = "unsupported_checkpoint"


class LongContextCheckpoint(UnsupportedCheckpoint):
    """A BlueLM 32K variant: its rotary positions are NTK-mixed, so a plain import would run and be wrong."""

    code = "long_context_checkpoint"


class QuantisedCheckpoint(UnsupportedCheckpoint):
    """Packed integer weights, which LoRA training here can't read."""

    code = "quantised_checkpoint"


class NoChatFormat(Unsupported):
    """The base has neither BlueLM's role markers nor a chat template."""

    code = "no_chat_format"


class DamagedCheckpoint(Invalid):
    """Files are missing, cut off, altered, or hold values that are no numbers."""

    code = "damaged_checkpoint"


class UnsafeCheckpoint(Invalid):
    """Reading the folder as asked would run its code or leave it."""

    code = "unsafe_checkpoint"


class NoRoomForBase(StorageFull):
    """The converted base does not fit the disk."""

    code = "no_room_for_base"


class CheckpointNotFound(NotFound):
    """No folder, and no hub repository, of this name."""

    code = "checkpoint_not_found"


class HubUnavailable(Unavailable):
    """The model hub can't be reached."""

    code = "hub_unavailable"
