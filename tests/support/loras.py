"""An adapter's two files, good ones and every way they can be bad; and how a client sends them."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Parts = Sequence[tuple[str, bytes]]


def parts(folder: Path) -> Parts:
    """The two files of a folder, in the order in which they are sent."""
    return [(name, (folder / name).read_bytes()) for name in (CONFIG, WEIGHTS)]


def send(client: httpx.Client, files: Parts, *, key: str | None = None, **fields: str) -> httpx.Response:
    """Import an adapter as httpx sends forms: the fields first."""
    form = [("file", (name, content)) for name, content in files]
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/adapters", data={"name": "made"} | fields, files=form, headers=headers)


BOUNDARY = "XbX"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
"""The header of what `form` writes."""


def form(files: Parts, **fields: str) -> bytes:
    """Write a form by hand."""
    body = b""
    for name, value in fields.items():
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, content in files:
        named = f'name="file"; filename="{name}"'
        body += f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], bytes]], *, metadata: Any = None) -> bytes:
    """Write a file by hand: type, shape and bytes of each tensor."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(values)]}
        at += len(values)
    return headed(json.dumps(header).encode(), b"".join(values for _, _, values in tensors.values()))


def headed(header: bytes, data: bytes) -> bytes:
    """Put a header in front of its data."""
    return len(header).to_bytes(8, "little") + header + data


def opened(weights: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a file apart: its header and the data after it."""
    end = 8 + int.from_bytes(weights[:8], "little")
    return json.loads(weights[8:end]), weights[end:]


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
"""A small base of another layout than BlueLM's: its keys and values are narrower than its queries."""
LINEARS = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (8, 16),
    "self_attn.v_proj": (8, 16),
    "self_attn.o_proj": (16, 16),
    "mlp.gate_proj": (24, 16),
    "mlp.up_proj": (24, 16),
    "mlp.down_proj": (16, 24),
}
"""[out, in] of its layers, written down rather than computed."""
MODULES = [path.rpartition(".")[2] for path in LINEARS]
HALF = {"F32": struct.pack("<f", 0.5), "F16": struct.pack("<e", 0.5), "BF16": struct.pack("<f", 0.5)[2:]}
Tensors = dict[str, tuple[str, Sequence[int], bytes]]


def config(**fields: Any) -> bytes:
    """What peft 0.21 writes for a LoRA of all layers with r 2; `...` leaves a field out."""
    written = {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "/home/someone/BlueLM-7B-Chat",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "lora_alpha": 4,
        "lora_bias": False,
        "lora_dropout": 0.1,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": 2,
        "rank_pattern": {},
        "revision": None,
        "target_modules": MODULES,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    } | fields
    return json.dumps({name: value for name, value in written.items() if value is not ...}).encode()


def tensors(*, r: int = 2, dtype: str = "F32", modules: Sequence[str] = MODULES) -> Tensors:
    """Every tensor of such a LoRA, all values one half."""
    made: Tensors = {}
    for layer in range(SIZES["num_hidden_layers"]):
        for path, (rows, columns) in LINEARS.items():
            if path.rpartition(".")[2] in modules:
                at = f"base_model.model.model.layers.{layer}.{path}"
                made[f"{at}.lora_A.weight"] = (dtype, (r, columns), HALF[dtype] * (r * columns))
                made[f"{at}.lora_B.weight"] = (dtype, (rows, r), HALF[dtype] * (rows * r))
    return made


def good(**fields: Any) -> Parts:
    """A whole adapter that fits; `seed` makes one of other bytes."""
    seed = fields.pop("seed", 0)
    made = tensors()
    name, (dtype, shape, values) = next(iter(made.items()))
    made[name] = (dtype, shape, struct.pack("<f", 1.0 + seed) + values[4:])
    return [(CONFIG, config(**fields)), (WEIGHTS, safetensors(made))]
