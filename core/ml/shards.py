"""Tensors of a folder, one shard open at a time: torch's .bin archives and safetensors.

A .bin is a pickle in a zip. Only archives that unpack to their own size and whose pickle names tensors alone are opened,
and only with torch's `weights_only` reader. Knows no layout.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.domain.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from core.ml import pickles
from core.ml.layouts import TensorInfo, is_rotary_buffer
from core.ml.sources import CHUNK_BYTES, Source

INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES: Final = ("model.safetensors", "pytorch_model.bin")
MAX_PICKLE_BYTES: Final = 64 * 2**20
RECORD_OVERHEAD_BYTES: Final = 1024
LOCAL_HEADER_BYTES: Final = 30
# What a hostile or torn pickle can make torch's reader raise, as measured by flipping and cutting bytes.
READER_ERRORS: Final = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    OSError,
    struct.error,
)

# Likewise for Python's zip reader, whose headers are as easily torn.
ARCHIVE_ERRORS: Final = (zipfile.BadZipFile, *READER_ERRORS)


class Weights:
    """The tensors of a folder by name; `files` are the shards and, where there is one, the index.

    Raises:
        DamagedCheckpoint: Index and shards do not agree, or a file is torn.
        UnsafeCheckpoint: A pickle asks for more than tensors.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened: tuple[str, Mapping[str, torch.Tensor]] | None = None
        self._file_by_name: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        index = next((name for name in INDEXES if source.has(name)), None)
        listed = _listed(source, index) if index else None
        self.shards = sorted(set(listed.values())) if listed is not None else [_single(source)]
        self.files = [*self.shards, *([index] if index else [])]
        for file in self.shards:
            self._describe(file)
        if listed is not None:
            self._compare(listed, index=str(index))

    def get(self, name: str) -> torch.Tensor:
        """Read one tensor; it may map the file, so copy what must outlive the shard."""
        return self._shard(self._file_by_name[name])[name].detach()

    def _describe(self, file: str) -> None:
        for name, tensor in self._shard(file).items():
            if name in self.tensors:
                raise DamagedCheckpoint(f"{name} is in two shards, {self._file_by_name[name]} and {file}.")
            self.tensors[name] = _info(name, tensor)
            self._file_by_name[name] = file

    def _compare(self, listed: Mapping[str, str], *, index: str) -> None:
        differing = {
            name
            for name in listed.keys() | self._file_by_name.keys()
            if listed.get(name) != self._file_by_name.get(name) and not is_rotary_buffer(name)
        }
        if differing:
            raise DamagedCheckpoint(
                f"{index} and the shards disagree about {', '.join(sorted(differing)[:3])}; download the folder again."
            )

    def _shard(self, file: str) -> Mapping[str, torch.Tensor]:
        if self._opened is None or self._opened[0] != file:
            self._opened = None  # before the next is read, so that two are never held
            self._opened = (file, _read(self._source.path(file), file))
        return self._opened[1]


def finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return the values if all are finite numbers.

    Raises:
        DamagedCheckpoint: One is NaN or infinite.
    """
    # One pass: NaN goes through both ends, and an infinity is one of them.
    if values.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
        raise DamagedCheckpoint(f"{name} holds NaN or infinite values; get the weights again.")
    return values


def verify_checksums(path: Path, *, read: Callable[[int], None]) -> None:
    """Hold a .bin archive's records against their own CRC-32; `read` is told of each chunk's bytes.

    Raises:
        DamagedCheckpoint: A record differs, as after a bad disk or a torn copy.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                with archive.open(record) as file:
                    while chunk := file.read(CHUNK_BYTES):
                        read(len(chunk))
    except ARCHIVE_ERRORS as error:
        raise DamagedCheckpoint(f"{path.name} fails its own checksum; download it again.") from error


def _listed(source: Source, index: str) -> Mapping[str, str]:
    """Read an index's map from tensor to shard and see that every shard is there."""
    weight_map = source.members(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise DamagedCheckpoint(f"{index} has no weight_map from tensors to files.")
    ending = ".bin" if index.endswith(".bin.index.json") else ".safetensors"
    if odd := sorted(file for file in set(weight_map.values()) if not file.endswith(ending)):
        raise UnsafeCheckpoint(f"{index} names {odd[0][:100]!r}; its shards must end in {ending}.")
    if missing := sorted(file for file in set(weight_map.values()) if "/" not in file and not source.has(file)):
        raise DamagedCheckpoint(f"Shards are missing: {', '.join(missing[:8])}; download them too.")
    return weight_map


def _single(source: Source) -> str:
    found = next((name for name in SINGLES if source.has(name)), None)
    if found is not None:
        return found
    stray = [name for name in source.names() if name.endswith((".bin", ".safetensors"))]
    raise DamagedCheckpoint(
        f"There are weights ({', '.join(stray[:3])}) but no index; download {' or '.join(INDEXES)} too."
        if stray
        else "The folder holds no weights (.safetensors or .bin); give the folder that has them."
    )


def _read(path: Path, file: str) -> Mapping[str, torch.Tensor]:
    if file.endswith(".safetensors"):
        try:
            return dict(load_file(path))
        except (SafetensorError, *READER_ERRORS) as error:
            raise DamagedCheckpoint(f"{file} is cut off or no safetensors file; download it again.") from error
    sizes = _check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(
            f"{file} is a pickle that asks for more than tensors, or is cut off; it was not run. "
            "Use the official files, or save the weights as safetensors."
        ) from error
    except READER_ERRORS as error:
        raise DamagedCheckpoint(f"{file} is cut off or damaged; download it again.") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in loaded.items()
    ):
        raise UnsafeCheckpoint(f"{file} holds other things than named tensors.")
    # torch maps what a pickle declares, without a look at how long the record is.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _dense(loaded)}
    if [size for _, size in sorted(storages.items()) if size] != sizes:
        raise DamagedCheckpoint(f"{file} is cut off or damaged: its tensors and its records differ; download it again.")
    return loaded


def _dense(tensors: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    yield from (tensor for tensor in tensors.values() if tensor.layout == torch.strided)


def _check_archive(path: Path) -> list[int]:
    """See that a .bin is a zip whose records are stored as they are, one after the other, and its pickle harmless.

    Returns:
        The bytes of each record of tensor values that has any, in the file's order.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_records(path, records)
            for record in records:
                if record.filename.endswith(".pkl"):
                    pickles.check(archive.read(record), file=path.name)
            in_order = sorted(records, key=lambda record: record.header_offset)
            return [record.file_size for record in in_order if "/data/" in record.filename and record.file_size]
    except ARCHIVE_ERRORS as error:
        raise DamagedCheckpoint(
            f"{path.name} is cut off, or was saved by torch before 1.6; download it again, or save it anew."
        ) from error


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> None:
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        raise UnsafeCheckpoint(f"{path.name} is a compressed or encrypted archive, which torch.save never writes.")
    names = [record.filename for record in records]
    if odd := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
        raise UnsafeCheckpoint(f"{path.name} has a record named {odd[0][:100]!r}, which torch.save never writes.")
    end = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        if record.header_offset < end:
            raise UnsafeCheckpoint(f"{path.name} lists records that overlap.")
        end = record.header_offset + LOCAL_HEADER_BYTES + len(record.filename.encode()) + record.file_size
    size = path.stat().st_size
    if len(set(names)) != len(names) or end > size:
        raise UnsafeCheckpoint(f"{path.name} lists records that overlap.")
    if size > sum(record.file_size for record in records) + (len(records) + 64) * RECORD_OVERHEAD_BYTES:
        raise UnsafeCheckpoint(f"{path.name} has bytes that belong to none of its records.")
    if any(record.filename.endswith(".pkl") and record.file_size > MAX_PICKLE_BYTES for record in records):
        raise UnsafeCheckpoint(f"{path.name} has a pickle of over {MAX_PICKLE_BYTES >> 20} MiB beside its tensors.")


def _info(name: str, tensor: torch.Tensor) -> TensorInfo:
    info = TensorInfo(tuple(tensor.shape), tensor.dtype)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UnsafeCheckpoint(f"{name} is no plain dense tensor.")
    if info.bytes > tensor.untyped_storage().nbytes():
        raise UnsafeCheckpoint(f"{name} claims {info.bytes} bytes and has {tensor.untyped_storage().nbytes()}.")
    return info
