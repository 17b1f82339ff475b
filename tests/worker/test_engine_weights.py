"""Hostile and damaged adapters, as folders."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.domain.adapters import BrokenAdapter
from core.domain.generation import TemplateMismatch
from core.domain.linears import Linear
from core.text.chat import Renderer
from tests.support import engines, tiny_base
from worker.engine import weights
from worker.engine.weights import Fit

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fit]:
    folder = tmp_path_factory.mktemp("weights")
    base = tiny_base.make(folder / "base")
    linears = {
        name: Linear(out_features=module.out_features, in_features=module.in_features)
        for name, module in tiny_base.model().named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in engines.MODULES
    }
    fit = Fit(linears=linears, template_hash=Renderer.load(base).template_hash, max_rank=16)
    return engines.adapter(folder / "adapter", base, seed=1), fit


@pytest.fixture
def adapter(made: tuple[Path, Fit], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "adapter"))


@pytest.fixture
def fit(made: tuple[Path, Fit]) -> Fit:
    return made[1]


def seal(folder: Path, **facts: Any) -> None:
    """Make the manifest true again after a change."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in folder.iterdir()
        if path.name != "manifest.json" and path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    seal(folder)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    seal(folder)


def test_a_plain_peft_adapter_is_read(adapter: Path, fit: Fit) -> None:
    read = weights.read(adapter, fit)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert read.config.r == 4
    assert read.tensors.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in read.tensors.items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 0}, "r:"),
        ({"r": 17}, "at most 16"),
        ({"r": 4.0}, "r:"),
        ({"r": "4"}, "r:"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"target_modules": ".*"}, "target_modules"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules"),
        ({"target_modules": ["q_proj", "q_proj"]}, "twice"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"auto_mapping": {"parent_library": "os", "base_model_class": "system"}}, "auto_mapping"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"use_dora": True}, "use_dora"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"megatron_core": "os"}, "megatron_core"),
        ({"a_field_of_tomorrow": 0}, "a_field_of_tomorrow"),
    ],
)
def test_a_config_beyond_plain_lora_is_refused(adapter: Path, fit: Fit, fields: dict[str, Any], said: str) -> None:
    change_config(adapter, **fields)
    with pytest.raises(BrokenAdapter, match=said):
        weights.read(adapter, fit)


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(2, 2)


def _misshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 65)


def _retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64, dtype=torch.float64)


def _poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop, "lacks 1 tensors"),
        (_add, "no place for"),
        (_misshape, r"\[4, 65\]"),
        (_retype, "F32"),
        (_poison, "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    adapter: Path, fit: Fit, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    change_weights(adapter, change)
    with pytest.raises(BrokenAdapter, match=said):
        weights.read(adapter, fit)


def _rewrite_header(folder: Path, rewrite: Callable[[dict[str, Any]], None], *, tail: bytes = b"") -> None:
    path = folder / "adapter_model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    rewrite(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :] + tail)
    seal(folder)


def _overlap(header: dict[str, Any]) -> None:
    first, second = [name for name in header if name.endswith("k_proj.lora_A.weight")][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def _beyond(header: dict[str, Any]) -> None:
    name = next(name for name in header if name.endswith("k_proj.lora_A.weight"))
    header[name]["data_offsets"] = [10**9, 10**9 + 1024]


def _nothing(header: dict[str, Any]) -> None:
    del header


@pytest.mark.parametrize(("rewrite", "tail"), [(_overlap, b""), (_beyond, b""), (_nothing, b"more")])
def test_offsets_that_overlap_or_leave_the_file_are_refused(
    adapter: Path, fit: Fit, rewrite: Callable[[dict[str, Any]], None], tail: bytes
) -> None:
    _rewrite_header(adapter, rewrite, tail=tail)
    with pytest.raises(BrokenAdapter, match="bytes"):
        weights.read(adapter, fit)


def test_a_header_of_a_hundred_megabytes_is_not_parsed(adapter: Path, fit: Fit) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes((100 * 2**20).to_bytes(8, "little") + b" " * (2 * 2**20))
    seal(adapter)
    with pytest.raises(BrokenAdapter, match=r"larger|at most"):
        weights.read(adapter, fit)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64])
def test_a_pickle_or_rubbish_named_safetensors_is_refused(adapter: Path, fit: Fit, content: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(content)
    seal(adapter)
    with pytest.raises(BrokenAdapter):
        weights.read(adapter, fit)


def test_a_bin_file_is_never_looked_at(adapter: Path, fit: Fit) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    seal(adapter)
    with pytest.raises(BrokenAdapter, match=r"no file adapter_model\.safetensors"):
        weights.read(adapter, fit)


def test_a_pipe_in_place_of_a_file_is_not_opened(adapter: Path, fit: Fit) -> None:
    (adapter / "adapter_config.json").unlink()
    os.mkfifo(adapter / "adapter_config.json")
    with pytest.raises(BrokenAdapter, match=r"no file adapter_config\.json"):
        weights.read(adapter, fit)


def test_a_byte_that_flipped_after_sealing_is_found(adapter: Path, fit: Fit) -> None:
    path = adapter / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BrokenAdapter, match="not the file"):
        weights.read(adapter, fit)


def test_an_adapter_of_another_chat_format_is_refused_saying_so(adapter: Path, fit: Fit) -> None:
    seal(adapter, template_hash="0" * 64)
    with pytest.raises(TemplateMismatch, match="template_hash '0000"):
        weights.read(adapter, fit)
