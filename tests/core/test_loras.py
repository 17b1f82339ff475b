"""Adapters' files as bytes: every way they can be bad that we know of, with what their owner is told."""

import contextlib
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load

from core.domain import loras
from core.domain.adapters import BrokenAdapter
from core.domain.linears import LlamaSizes, linears
from core.domain.loraweights import MAX_HEADER_BYTES, Reading, largest_file
from core.errors import Finding
from tests.support import loras as files
from tests.support.loras import MODULES, SIZES, Tensors, headed, opened, safetensors
from tests.support.streams import cut

LINEARS = linears(LlamaSizes.model_validate(SIZES))
CONFIG = loras.read_config(files.config(), max_rank=64)
A = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
B = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


def config_refused(raw: bytes) -> Finding:
    with pytest.raises(BrokenAdapter) as refused:
        loras.read_config(raw, max_rank=64)
    (finding,) = refused.value.findings
    assert finding.message in refused.value.detail
    return finding


def read(content: bytes, *, piece: int = 65536) -> None:
    reading = Reading(CONFIG, LINEARS)
    for chunk in cut(content, piece):
        reading.feed(chunk)
    reading.finish()
    reading.check_effect()


def refused(content: bytes, *, piece: int = 65536) -> Finding:
    with pytest.raises(BrokenAdapter) as caught:
        read(content, piece=piece)
    (finding,) = caught.value.findings
    return finding


CONFIGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "r 0": ({"r": 0}, "r", "invalid_value"),
    "r -1": ({"r": -1}, "r", "invalid_value"),
    "r 1.5": ({"r": 1.5}, "r", "invalid_value"),
    "r as text": ({"r": "8"}, "r", "invalid_value"),
    "r true": ({"r": True}, "r", "invalid_value"),
    "r huge": ({"r": 2**31}, "r", "invalid_value"),
    "r over what is served": ({"r": 65}, "r", "rank_too_high"),
    "no r": ({"r": ...}, "r", "invalid_value"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "lora_alpha", "invalid_value"),
    "alpha infinite": ({"lora_alpha": float("inf")}, "lora_alpha", "invalid_value"),
    "alpha 0": ({"lora_alpha": 0}, "lora_alpha", "invalid_value"),
    "a pattern": ({"target_modules": ".*"}, "target_modules", "invalid_value"),
    "a slow pattern": ({"target_modules": "(a+)+$"}, "target_modules", "invalid_value"),
    "all-linear": ({"target_modules": "all-linear"}, "target_modules", "invalid_value"),
    "no modules": ({"target_modules": []}, "target_modules", "invalid_value"),
    "the head": ({"target_modules": ["q_proj", "lm_head"]}, "target_modules.1", "invalid_value"),
    "the embedding": ({"target_modules": ["embed_tokens"]}, "target_modules.0", "invalid_value"),
    "another model's": ({"target_modules": ["c_attn"]}, "target_modules.0", "invalid_value"),
    "a module twice": ({"target_modules": ["q_proj", "q_proj"]}, "target_modules", "invalid_value"),
    "another method": ({"peft_type": "LOHA"}, "peft_type", "invalid_value"),
    "no method": ({"peft_type": ...}, "peft_type", "invalid_value"),
    "another task": ({"task_type": "SEQ_CLS"}, "task_type", "invalid_value"),
    "biases": ({"bias": "all"}, "bias", "invalid_value"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights", "invalid_value"),
    "code to import": ({"auto_mapping": {"parent_library": "os"}}, "auto_mapping", "unsupported_value"),
    "megatron": ({"megatron_core": "os"}, "megatron_core", "invalid_value"),
    "megatron's config": ({"megatron_config": {"a": 1}}, "megatron_config", "unsupported_value"),
    "whole modules": ({"modules_to_save": ["embed_tokens"]}, "modules_to_save", "unsupported_value"),
    "trained tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices", "unsupported_value"),
    "layers anew": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication", "unsupported_value"),
    "some layers": ({"layers_to_transform": [0]}, "layers_to_transform", "unsupported_value"),
    "ranks": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern", "unsupported_value"),
    "alphas": ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern", "unsupported_value"),
    "DoRA": ({"use_dora": True}, "use_dora", "unsupported_value"),
    "LoRA with biases": ({"lora_bias": True}, "lora_bias", "unsupported_value"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out", "unsupported_value"),
    "zero is not null": ({"a_field_of_tomorrow": 0}, "a_field_of_tomorrow", "unsupported_value"),
    "a version that is none": ({"peft_version": "1\n\x00"}, "peft_version", "invalid_value"),
}


@pytest.mark.parametrize(("fields", "field", "code"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_is_not_plain_lora_is_refused_by_field(fields: dict[str, Any], field: str, code: str) -> None:
    found = config_refused(files.config(**fields))
    assert (found.field, found.code) == (field, code)


@pytest.mark.parametrize(
    "field", ["modules_to_save", "target_modules", "use_dora", "rank_pattern", "init_lora_weights"]
)
def test_a_refused_field_says_what_would_be_right(field: str) -> None:
    assert config_refused(files.config(**{field: {"x": "y"}})).hint


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "malformed_json"),
        (b"[]", "malformed_json"),
        (b"[" * 50_000, "malformed_json"),
        (b'{"r": ' + b"1" * 30_000 + b"}", "malformed_json"),
        (b'{"r": 1, "r": 1}', "duplicate_key"),
        (b'{"a": {"r": 1, "r": 1}}', "duplicate_key"),
        (b'{"\\ud800": 1}', "malformed_json"),
        (b'{"a": "\\ud800"}', "malformed_json"),
        (files.config().decode().encode("utf-16"), "malformed_json"),
        (b"\xef\xbb\xbf" + files.config(), "malformed_json"),
        (files.config()[:-1] + b', "x": "\xff"}', "malformed_json"),
        (files.config() + b" " * loras.MAX_CONFIG_BYTES, "too_large"),
        (b"\x80\x04K\x01.", "malformed_json"),
    ],
)
def test_a_config_that_is_not_one_json_object_is_refused(raw: bytes, code: str) -> None:
    assert config_refused(raw).code == code


def test_what_is_kept_says_the_same_and_nothing_else_of_what_came() -> None:
    sent = files.config(init_lora_weights="gaussian", base_model_name_or_path="/secret/path", revision="x\n")
    config = loras.read_config(sent, max_rank=64)
    kept = loras.canonical(config, base_name="blue")
    assert b"secret" not in kept
    said = json.loads(kept)
    assert (said["base_model_name_or_path"], said["target_modules"]) == ("blue", sorted(MODULES))
    assert (said["r"], said["lora_alpha"], said["use_rslora"]) == (2, 4, False)
    again = loras.read_config(kept, max_rank=64)
    assert loras.canonical(again, base_name="blue") == kept


def test_a_base_has_the_linears_that_its_sizes_say() -> None:
    found = {path: (one.out_features, one.in_features) for path, one in LINEARS.items()}
    expected = {f"model.layers.{n}.{path}": size for n in range(2) for path, size in files.LINEARS.items()}
    assert found == expected


@pytest.mark.parametrize("piece", [1, 7, 4096, 65536])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_good_weights_are_read_however_they_are_cut(dtype: str, piece: int) -> None:
    content = safetensors(files.tensors(dtype=dtype), metadata={"format": "pt"})
    assert len(content) <= largest_file(CONFIG, LINEARS)
    read(content, piece=piece)


def headers(change: Callable[[dict[str, Any]], None]) -> bytes:
    header, data = opened(safetensors(files.tensors()))
    change(header)
    return headed(json.dumps(header).encode(), data)


def _overlap(header: dict[str, Any]) -> None:
    header[B]["data_offsets"] = header[A]["data_offsets"]


def _beyond(header: dict[str, Any]) -> None:
    begin, end = header[B]["data_offsets"]
    header[B]["data_offsets"] = [begin + 10**9, end + 10**9]


def _gap(header: dict[str, Any]) -> None:
    for entry in header.values():
        entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]


def _short(header: dict[str, Any]) -> None:
    header[B]["data_offsets"][1] -= 4


def _negative(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = [-8, 0]


def _backwards(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = header[A]["data_offsets"][::-1]


def _huge(header: dict[str, Any]) -> None:
    header[A]["shape"] = [2**31, 2**31]


def _bigger(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = [0, 10**400]


def _fraction(header: dict[str, Any]) -> None:
    header[A]["shape"] = [2.0, 24]


def _flat(header: dict[str, Any]) -> None:
    header[A]["shape"] = [48]


def _integers(header: dict[str, Any]) -> None:
    header[A]["dtype"] = "I64"


def _quantised(header: dict[str, Any]) -> None:
    header[A]["dtype"] = "F8_E4M3"


def _more(header: dict[str, Any]) -> None:
    header[A]["x"] = 1


def _metadata(header: dict[str, Any]) -> None:
    header["__metadata__"] = {"a": 1}


def _none(header: dict[str, Any]) -> None:
    header[A] = None


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "overlapping": (_overlap, "wrong_offsets"),
    "out of the file": (_beyond, "wrong_offsets"),
    "a gap at the start": (_gap, "wrong_offsets"),
    "too short for its shape": (_short, "wrong_offsets"),
    "negative": (_negative, "malformed_header"),
    "backwards": (_backwards, "wrong_offsets"),
    "a shape beyond all bounds": (_huge, "wrong_shape"),
    "an offset beyond all bounds": (_bigger, "wrong_offsets"),
    "a size with a fraction": (_fraction, "malformed_header"),
    "one axis": (_flat, "malformed_header"),
    "integers": (_integers, "malformed_header"),
    "quantised": (_quantised, "malformed_header"),
    "an unknown member": (_more, "malformed_header"),
    "metadata that is no text": (_metadata, "malformed_header"),
    "no entry": (_none, "malformed_header"),
}


@pytest.mark.parametrize(("change", "code"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_lies_is_refused(change: Callable[[dict[str, Any]], None], code: str) -> None:
    assert refused(headers(change)).code == code


def _without(name: str) -> Tensors:
    made = files.tensors()
    del made[name]
    return made


NAMES: dict[str, tuple[Tensors, str, str]] = {
    "one lacks": (_without(B), "missing_tensor", B),
    "a layer too many": (
        files.tensors() | {A.replace("layers.1", "layers.2"): ("F32", (2, 24), b"\0" * 192)},
        "unknown_tensor",
        "layers.2",
    ),
    "an embedding": (
        files.tensors() | {"base_model.model.model.embed_tokens.weight": ("F32", (2, 2), b"\0" * 16)},
        "unknown_tensor",
        "folded",
    ),
    "an adapter's name inside": (
        {name.replace(".weight", ".default.weight"): one for name, one in files.tensors().items()},
        "unknown_tensor",
        "save_pretrained",
    ),
    "without peft's prefix": (
        {name.removeprefix("base_model.model."): one for name, one in files.tensors().items()},
        "unknown_tensor",
        "save_pretrained",
    ),
    "of another base": (
        files.tensors() | {A: ("F32", (2, 704), b"\0" * 5632)},
        "wrong_shape",
        "[2, 704]",
    ),
    "of another r": (files.tensors(r=4), "wrong_shape", "r"),
    "fewer modules than named": (files.tensors(modules=["q_proj"]), "missing_tensor", "target_modules"),
}


@pytest.mark.parametrize(("tensors", "code", "says"), NAMES.values(), ids=NAMES.keys())
def test_tensors_that_the_base_has_no_place_for_are_refused(tensors: Tensors, code: str, says: str) -> None:
    found = refused(safetensors(tensors))
    assert found.code == code
    assert says in f"{found.message} {found.hint}"


GOOD = safetensors(files.tensors())
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "wrong_size"),
    "four bytes": (b"\0\0\0\0", "wrong_size"),
    "no header": (headed(b"", b""), "malformed_json"),
    "an empty header": (headed(b"{}", b""), "missing_tensor"),
    "a header of 100 MB": ((100 * 2**20).to_bytes(8, "little") + b" " * 1000, "header_too_large"),
    "a header of 2^64 bytes": (b"\xff" * 64, "header_too_large"),
    "a header that is not there": ((1000).to_bytes(8, "little") + b"{", "wrong_size"),
    "a zip pickle": (b"PK\x03\x04" + b"\0" * 100, "pickle"),
    "a pickle": (b"\x80\x04K\x01.", "pickle"),
    "a header that nests": (headed(b'{"a":' * 20_000, b""), "malformed_json"),
    "a name twice": (headed(b'{"a": null, "a": null}', b""), "duplicate_key"),
    "UTF-16": (headed("{}".encode("utf-16"), b""), "malformed_json"),
    "half a character": (headed(b'{"__metadata__": {"a": "\\ud800"}}', b""), "malformed_json"),
    "cut in its data": (GOOD[:-1], "wrong_size"),
    "cut by a tensor": (GOOD[: -2 * 16 * 4], "wrong_size"),
    "cut after its header": (GOOD[: 8 + int.from_bytes(GOOD[:8], "little")], "wrong_size"),
    "a byte too long": (GOOD + b"\0", "wrong_size"),
}


@pytest.mark.parametrize(("content", "code"), FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("piece", [3, 65536])
def test_a_file_that_is_none_is_refused(content: bytes, code: str, piece: int) -> None:
    assert refused(content, piece=piece).code == code


def test_a_header_is_judged_before_any_data_comes() -> None:
    content = safetensors(files.tensors(r=4))
    end = 8 + int.from_bytes(content[:8], "little")
    with pytest.raises(BrokenAdapter):
        Reading(CONFIG, LINEARS).feed(content[:end])
    with pytest.raises(BrokenAdapter):
        Reading(CONFIG, LINEARS).feed((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))


BITS = {
    "F32": (4, [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001]),
    "F16": (2, [0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01]),
    "BF16": (2, [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81]),
}
OF_USE = {
    "F32": [0x477FFFFF, 0xC77FFFFF, 0x80000000, 0x00000001],
    "F16": [0x7BFF, 0xFBFF, 0x8000, 0x0001],
    "BF16": [0x477F, 0xC77F, 0x8000, 0x0001],
}
TOO_LARGE = {
    "F32": [0x47800000, 0xC7800000, 0x48000000, 0x7F7FFFFF, 0xFF7FFFFF],
    "BF16": [0x4780, 0xC780, 0x4800, 0x7F7F, 0xFF7F],
}


@pytest.mark.parametrize(
    ("code", "dtype", "patterns"),
    [
        *(("not_finite", dtype, patterns) for dtype, (_, patterns) in BITS.items()),
        *(("value_too_large", dtype, patterns) for dtype, patterns in TOO_LARGE.items()),
    ],
)
def test_every_value_that_no_training_leaves_is_found_wherever_it_stands(
    code: str, dtype: str, patterns: list[int]
) -> None:
    width = BITS[dtype][0]
    dice = random.Random(5)
    for bits in patterns:
        made = files.tensors(dtype=dtype)
        name = dice.choice(sorted(made))
        _, shape, values = made[name]
        at = width * dice.randrange(len(values) // width)
        made[name] = (dtype, shape, values[:at] + bits.to_bytes(width, "little") + values[at + width :])
        found = refused(safetensors(made), piece=dice.choice([1, 5, 64, 65536]))
        assert (found.code, found.field) == (code, name)


@pytest.mark.parametrize("dtype", OF_USE)
def test_the_largest_and_smallest_values_of_use_pass(dtype: str) -> None:
    width = BITS[dtype][0]
    made = files.tensors(dtype=dtype)
    for name, (_, shape, values) in made.items():
        edge = b"".join(bits.to_bytes(width, "little") for bits in OF_USE[dtype])
        made[name] = (dtype, shape, edge + values[len(edge) :])
    read(safetensors(made), piece=11)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_an_adapter_that_changes_nothing_is_none(side: str, zero: float) -> None:
    made = files.tensors()
    for name, (dtype, shape, values) in made.items():
        if side in name:
            made[name] = (dtype, shape, struct.pack("<f", zero) * (len(values) // 4))
    assert refused(safetensors(made)).code == "no_effect"
    dtype, shape, values = made[A if side == "lora_A" else B]
    made[A if side == "lora_A" else B] = (dtype, shape, values[:-4] + struct.pack("<f", 1e-40))
    read(safetensors(made))


def test_mutated_files_are_refused_with_a_finding_or_are_as_safetensors_reads_them() -> None:
    seed = 8
    dice = random.Random(seed)
    kept = 0
    for turn in range(3000):
        content = bytearray(safetensors(files.tensors(dtype=dice.choice(["F32", "F16", "BF16"]))))
        # Headers are where the faults are; a third of the changes fall into the data.
        end = dice.choice([8, 400, len(content)])
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(end)
            content[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        if accepts(bytes(content), piece=dice.choice([64, 4096])):
            kept += 1
            assert all(torch.isfinite(tensor).all() for tensor in load(bytes(content)).values()), (seed, turn)
    assert kept


def accepts(content: bytes, *, piece: int) -> bool:
    """Whether a file is read; any error but a refusal comes out."""
    with contextlib.suppress(BrokenAdapter):
        read(content, piece=piece)
        return True
    return False
