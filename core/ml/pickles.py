"""What a pickle would call, read from its opcodes without running any of them.

torch's `weights_only` reader has been broken twice (CVE-2025-32434, CVE-2026-24747), and it may still call what takes
memory by the terabyte (`bytearray`); so a pickle may name nothing but what `torch.save` writes for dense tensors.
"""

import pickletools
import re
from typing import Final

from core.domain.checkpoints import DamagedCheckpoint, UnsafeCheckpoint

ALLOWED: Final = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage|torch\.storage \w+Storage"
)
CALLING: Final = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"})
"""Opcodes that look up or make things in ways that `torch.save` does not use."""


def check(pickle: bytes, *, file: str) -> None:
    """See that a pickle asks for tensors and containers alone.

    Args:
        pickle: The archive's `data.pkl`.
        file: For messages.

    Raises:
        UnsafeCheckpoint: It asks for something else; the message names it.
        DamagedCheckpoint: It is no pickle.
    """
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "GLOBAL" and not ALLOWED.fullmatch(str(argument)):
                raise _unsafe(file, str(argument).replace(" ", "."))
            if opcode.name in CALLING:
                raise _unsafe(file, opcode.name)
    except (ValueError, LookupError, OverflowError) as error:
        raise DamagedCheckpoint(f"{file} is cut off or damaged; download it again.") from error


def _unsafe(file: str, what: str) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(
        f"{file} is a pickle that asks for more than tensors ({what[:80]}); it was not run. "
        "Use the official files, or save the weights as safetensors."
    )
