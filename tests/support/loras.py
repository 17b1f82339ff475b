"""An adapter's two files, good ones and every way they can be bad; and how a client sends them."""

import json
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
