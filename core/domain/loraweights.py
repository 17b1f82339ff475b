"""adapter_model.safetensors as bytes, judged while they come: the header first, then every value's size.

A header can point outside its file, and a file can be a pickle by another name. Knows no tensors: a value's bytes say
enough. Holds the header and one piece at most.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.domain import loras
from core.domain.adapters import broken
from core.domain.linears import Linear
from core.domain.loras import WEIGHTS, LoraConfig
from core.errors import Finding

MAX_HEADER_BYTES: Final = 2**20
LENGTH_BYTES: Final = 8
WIDTHS: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one value, by safetensors' names of the types that adapters may have."""
SAVE_AGAIN: Final = (
    'python -c "import torch; from safetensors.torch import save_file; save_file({name: tensor.contiguous() for name, '
    "tensor in torch.load('adapter_model.bin', map_location='cpu', weights_only=True).items()}, "
    "'adapter_model.safetensors', metadata={'format': 'pt'})\""
)
"""Turns the pickle that old peft writes into safetensors, on its owner's machine."""

_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ZEROS: Final = b"\0\x80"
"""What the sign byte of 0 and -0 can be."""
_F16_FINITE: Final = bytes(byte for byte in range(256) if byte & 0x7C != 0x7C)
_ALL_ONES: Final = bytes(byte & 0x7F == 0x7F for byte in range(256))
# 65,536 is 0x4780 at the top of a value: sign, eight bits of exponent, and the rest.
_BELOW_65536: Final = bytes(byte for byte in range(256) if byte & 0x7F < 0x47)
_IS_0X47: Final = bytes(byte & 0x7F == 0x47 for byte in range(256))
_IS_ABOVE_0X47: Final = bytes(byte & 0x7F > 0x47 for byte in range(256))
_HIGH_BIT: Final = bytes(byte >> 7 for byte in range(256))


class TensorEntry(BaseModel):
    """One tensor of a safetensors header; offsets count from the end of the header."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    dtype: Literal["F32", "F16", "BF16"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=2, max_length=2)]
    data_offsets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


_ENTRIES: Final = TypeAdapter(dict[str, TensorEntry])
_METADATA: Final = TypeAdapter(dict[str, str] | None)


def largest_file(config: LoraConfig, linears: Mapping[str, Linear]) -> int:
    """Count the bytes that the weights file of such an adapter can have at most."""
    values = sum(rows * columns for _, (rows, columns) in loras.shapes(config, linears))
    return LENGTH_BYTES + MAX_HEADER_BYTES + values * max(WIDTHS.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a whole file found: nothing, or what is wrong with it."""

    fault: Finding | None


class Reading:
    """One weights file as it comes. `feed` it piece by piece, then `finish`.

    Args:
        config: Of the same adapter.
        linears: The base's linear layers by module path.
    """

    def __init__(self, config: LoraConfig, linears: Mapping[str, Linear]) -> None:
        self._shapes = dict(loras.shapes(config, linears))
        self._head = bytearray()
        self._tensors: Iterator[tuple[str, TensorEntry]] | None = None
        self._name, self._dtype, self._left = "", "F32", 0
        self._rest = b""
        self._nonzero: set[str] = set()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes in.

        Raises:
            BrokenAdapter: Enough is known to refuse the file.
        """
        left = memoryview(piece)
        if self._tensors is None:
            self._head += piece
            left = memoryview(self._opened())
        while left:
            if not self._left and not self._next():
                raise broken("wrong_size", f"{WEIGHTS} goes on after the bytes that its header names.")
            taken, left = left[: self._left], left[self._left :]
            self._left -= len(taken)
            self._judge(self._rest + taken)

    def finish(self) -> None:
        """Say that there are no more bytes.

        Raises:
            BrokenAdapter: The file is cut.
        """
        if self._tensors is None or self._left or self._next():
            raise broken("wrong_size", f"{WEIGHTS} is cut: it ends before the bytes that its header names.")

    def check_effect(self) -> None:
        """Once finished, see that the adapter does something.

        Raises:
            BrokenAdapter: In every layer A or B is zero, so that it would change nothing.
        """
        paths = [name.removesuffix("lora_A.weight") for name in self._nonzero if name.endswith("lora_A.weight")]
        if not any(f"{path}lora_B.weight" in self._nonzero for path in paths):
            said = "The adapter changes no answer of the base: in every layer its A or its B is zero."
            raise broken("no_effect", said, hint="Was it trained? B begins as zero.")

    def _opened(self) -> bytes:
        """Read the header once it is there; give what follows it."""
        if bytes(self._head[:4]).startswith(_PICKLES):
            raise broken("pickle", f"{WEIGHTS} is a pickle by its content.", hint=f"Save it again: {SAVE_AGAIN}")
        if len(self._head) < LENGTH_BYTES:
            return b""
        end = LENGTH_BYTES + int.from_bytes(self._head[:LENGTH_BYTES], "little")
        if end > LENGTH_BYTES + MAX_HEADER_BYTES:
            said = f"{WEIGHTS} begins with a header of {end - LENGTH_BYTES} bytes; at most {MAX_HEADER_BYTES} are read."
            raise broken("header_too_large", said, hint="Is it a safetensors file?")
        if len(self._head) < end:
            return b""
        head, rest = bytes(self._head[LENGTH_BYTES:end]), bytes(self._head[end:])
        self._head.clear()
        entries = _entries(head)
        _check_shapes(entries, self._shapes)
        in_order = sorted(entries.items(), key=lambda item: item[1].data_offsets)
        _check_offsets(in_order)
        self._tensors = iter(in_order)
        return rest

    def _next(self) -> bool:
        """Go on to the next tensor; False when there is none."""
        assert self._tensors is not None  # noqa: S101  (set with the header)
        name, entry = next(self._tensors, ("", None))
        if entry is None:
            return False
        self._name, self._dtype = name, entry.dtype
        self._left = entry.data_offsets[1] - entry.data_offsets[0]
        return True

    def _judge(self, values: bytes) -> None:
        width = WIDTHS[self._dtype]
        whole = len(values) - len(values) % width
        values, self._rest = values[:whole], values[whole:]
        if not _all_of_use(values, self._dtype):
            if not _all_finite(values, self._dtype):
                raise broken("not_finite", f"{self._name} holds values that are not finite.", field=self._name)
            said = f"{self._name} holds values of 65,536 or more, which half precision can't hold."
            raise broken(
                "value_too_large", said, field=self._name, hint="Trained values are near 0.01; this one diverged."
            )
        if self._name not in self._nonzero and not _all_zero(values, width):
            self._nonzero.add(self._name)


def _all_of_use(values: bytes, dtype: str) -> bool:
    """Say whether every value fits half precision, so that no product of A and B leaves the range of single."""
    if dtype == "F16":
        return _all_finite(values, dtype)
    width = WIDTHS[dtype]
    high = values[width - 1 :: width]
    if not high.translate(None, _BELOW_65536):
        return True
    if 1 in high.translate(_IS_ABOVE_0X47):
        return False
    edge, top = (
        int.from_bytes(part) for part in (high.translate(_IS_0X47), values[width - 2 :: width].translate(_HIGH_BIT))
    )
    return edge & top == 0


def _all_finite(values: bytes, dtype: str) -> bool:
    """Say whether no value's exponent is all ones, which infinities and NaNs have. Values are little-endian."""
    width = WIDTHS[dtype]
    high = values[width - 1 :: width]
    if dtype == "F16":
        return not high.translate(None, _F16_FINITE)
    if b"\x7f" not in high and b"\xff" not in high:
        return True
    second = values[width - 2 :: width]
    ones, lowest = (int.from_bytes(part) for part in (high.translate(_ALL_ONES), second.translate(_HIGH_BIT)))
    return ones & lowest == 0


def _all_zero(values: bytes, width: int) -> bool:
    if values.count(0) == len(values):
        return True
    return not any(values[at::width].strip(b"\0") for at in range(width - 1)) and not values[width - 1 :: width].strip(
        _ZEROS
    )


def _entries(raw: bytes) -> dict[str, TensorEntry]:
    found = loras.members(raw, f"The header of {WEIGHTS}", limit=MAX_HEADER_BYTES)
    try:
        # Readers of safetensors refuse other metadata.
        _METADATA.validate_python(found.pop("__metadata__", None), strict=True)
        return _ENTRIES.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ", ".join(str(part)[:200] for part in first["loc"][:2])
        raise broken("malformed_header", f"{WEIGHTS}, {where or '__metadata__'}: {first['msg']}.") from error


def _check_shapes(entries: Mapping[str, TensorEntry], expected: Mapping[str, list[int]]) -> None:
    missing, unknown = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
    if unknown:
        said = f"{WEIGHTS} has {len(unknown)} tensors that this base has no place for, such as {unknown[0][:200]}."
        raise broken("unknown_tensor", said, field=unknown[0][:200], hint=_advice(unknown[0], expected))
    if missing:
        said = f"{WEIGHTS} lacks {len(missing)} tensors, such as {missing[0]}."
        hint = f"{loras.CONFIG} names their modules in target_modules; every layer must have them."
        raise broken("missing_tensor", said, field=missing[0], hint=hint)
    for name, entry in entries.items():
        if entry.shape != expected[name]:
            said = f"{name} is {entry.shape}, but this base and the config's r need {expected[name]}."
            raise broken("wrong_shape", said, field=name)


def _advice(name: str, expected: Mapping[str, list[int]]) -> str | None:
    for spelt in (
        name.replace(".default.", "."),
        f"{loras.PREFIX}{name}",
        f"{loras.PREFIX}{name}".replace(".default.", "."),
    ):
        if spelt in expected:
            return f"peft's PeftModel.save_pretrained calls it {spelt}; rename the tensors."
    if "embed_tokens" in name or "lm_head" in name:
        return "Trained embeddings and heads are not served: they don't fit the base, whose table is folded."
    return None


def _check_offsets(in_order: list[tuple[str, TensorEntry]]) -> None:
    end = 0
    for name, entry in in_order:
        begin, stop = entry.data_offsets
        if begin != end or stop - begin != math.prod(entry.shape) * WIDTHS[entry.dtype]:
            said = f"{name} lies at other bytes than its shape and its neighbours allow."
            raise broken("wrong_offsets", said, field=name, hint="Tensors follow each other without gap or overlap.")
        end = stop
