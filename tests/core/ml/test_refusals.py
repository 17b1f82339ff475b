"""Folders that must not be imported: each is refused with its reason, and nothing is left behind."""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typing_extensions import override

from core.domain.checkpoints import (
    CheckpointNotFound,
    DamagedCheckpoint,
    LongContextCheckpoint,
    NoRoomForBase,
    QuantisedCheckpoint,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
)
from core.errors import Problem
from core.ml import trials
from core.ml.convert import convert
from core.text.chat import Renderer
from tests.support import bluelm

Breach = Callable[[Path], object]
FIRST, SECOND, THIRD = (f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3))


def config(**changes: Any) -> Breach:
    return lambda folder: bluelm.edit(folder / "config.json", **changes)


def weights(change: Callable[[dict[str, Any]], object], file: str = FIRST) -> Breach:
    """Change the tensors of one shard, and list in the index what they are then."""

    def breach(folder: Path) -> None:
        tensors = torch.load(folder / file, weights_only=True)
        before = set(tensors)
        change(tensors)
        torch.save(tensors, folder / file)
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        for name in before - set(tensors):
            del index["weight_map"][name]
        index["weight_map"] |= dict.fromkeys(tensors, file)
        bluelm.dump(folder / "pytorch_model.bin.index.json", index)

    return breach


def set_value(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors["model.embed_tokens.weight"].view(-1).__setitem__(77, value)


class Evil:
    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/bluelora-pickle-ran",)


def evil(folder: Path) -> None:
    torch.save({"model.norm.weight": torch.ones(3), "x": Evil()}, folder / SECOND)


class Vast:
    """Nothing that runs code, and yet 100 GB when it is read."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**11,)


def vast(folder: Path) -> None:
    torch.save({"model.norm.weight": torch.ones(3), "x": Vast()}, folder / SECOND)


def records(folder: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(folder / FIRST) as stored:
        return [(name, stored.read(name)) for name in stored.namelist()]


def rezipped(folder: Path, content: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(folder / FIRST, "w") as packed:
        for name, data in content:
            packed.writestr(name, data)


def absolute(folder: Path) -> None:
    rezipped(folder, [*records(folder), ("/etc/cron.d/x", b"x")])


def climbing(folder: Path) -> None:
    rezipped(folder, [*records(folder), ("archive/../../x", b"x")])


def overlapping(folder: Path) -> None:
    """Let the last entry of the zip's directory point at the bytes of the one before it."""
    data = bytearray((folder / FIRST).read_bytes())
    places = [found.start() for found in re.finditer(b"PK\x01\x02", data)]
    data[places[-1] + 42 : places[-1] + 46] = data[places[-2] + 42 : places[-2] + 46]
    (folder / FIRST).write_bytes(data)


def short_record(folder: Path) -> None:
    """Cut one tensor's record, and make the archive sound again."""
    content = records(folder)
    place = next(n for n, (name, _) in enumerate(content) if name.endswith("data/1"))
    content[place] = (content[place][0], content[place][1][:-8])
    rezipped(folder, content)


def padded(folder: Path) -> None:
    """Put a hole of 8 GiB in front of the archive, which zip allows."""
    data = (folder / FIRST).read_bytes()
    with (folder / FIRST).open("wb") as file:
        file.seek(8 * 2**30)
        file.write(data)


def truncated(file: str, keep: float) -> Breach:
    return lambda folder: os.truncate(folder / file, int((folder / file).stat().st_size * keep))


def flipped(folder: Path) -> None:
    data = bytearray((folder / SECOND).read_bytes())
    data[len(data) // 2] ^= 0x40
    (folder / SECOND).write_bytes(data)


def linked_out(folder: Path) -> None:
    (folder / THIRD).rename(folder.parent / THIRD)
    (folder / THIRD).symlink_to(folder.parent / THIRD)


def no_weights(folder: Path) -> None:
    for path in folder.glob("pytorch*"):
        path.unlink()


def dangling(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to("x")


def compressed(folder: Path) -> None:
    stored = zipfile.ZipFile(folder / FIRST)
    with zipfile.ZipFile(folder / "x", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    (folder / "x").rename(folder / FIRST)


def expanded(tensors: dict[str, Any]) -> None:
    tensors["model.embed_tokens.weight"] = torch.zeros(1, dtype=torch.bfloat16).expand(10**6, 32)


def fifo(folder: Path) -> None:
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def index(**changes: Any) -> Breach:
    return lambda folder: bluelm.edit(folder / "pytorch_model.bin.index.json", **changes)


def sums(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {SECOND}\n")


def hub_hash(folder: Path) -> None:
    notes = folder / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    (notes / f"{THIRD}.metadata").write_text(f"commit\n{'1' * 64}\n1.0\n")


def as_int(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(32, 32, dtype=torch.int8)


REFUSALS: list[tuple[str, Breach, type[Problem], str]] = [
    ("ntkmixed", config(rope_scaling={"type": "ntkmixed", "factor": 16.0}), LongContextCheckpoint, "rope_scaling"),
    ("ntk code", lambda f: (f / "modeling_bluelm.py").write_text("# NTK-mixed"), LongContextCheckpoint, "NTK"),
    ("32768 positions", config(max_position_embeddings=32768), LongContextCheckpoint, "max_position"),
    ("gptq", config(quantization_config={"bits": 4}), QuantisedCheckpoint, "quantization_config"),
    ("4 bits", config(quantization_bit=4), QuantisedCheckpoint, "quantization_bit"),
    ("qweight", weights(lambda t: t.__setitem__("a.qweight", torch.ones(2))), QuantisedCheckpoint, "qweight"),
    ("integers", weights(as_int), QuantisedCheckpoint, "int8"),
    ("architecture", config(architectures=["LlamaForCausalLM"]), UnsupportedCheckpoint, "architectures"),
    ("model type", config(model_type="qwen2"), UnsupportedCheckpoint, "qwen2"),
    ("no model type", config(model_type=...), UnsupportedCheckpoint, "model_type"),
    ("plain embedding", config(use_stable_embedding=False), UnsupportedCheckpoint, "use_stable_embedding"),
    ("embedding unsaid", config(use_stable_embedding=...), UnsupportedCheckpoint, "use_stable_embedding"),
    ("tied", config(tie_word_embeddings=True), UnsupportedCheckpoint, "tie_word_embeddings"),
    ("grouped heads", config(num_key_value_heads=2), UnsupportedCheckpoint, "num_key_value_heads"),
    ("theta", config(rope_theta=500000.0), UnsupportedCheckpoint, "rope_theta"),
    ("gelu", config(hidden_act="gelu"), UnsupportedCheckpoint, "hidden_act"),
    ("sizes", config(hidden_size="32"), UnsupportedCheckpoint, "hidden_size"),
    ("odd heads", config(num_attention_heads=3, num_key_value_heads=3), UnsupportedCheckpoint, "heads"),
    ("more layers", config(num_hidden_layers=3), UnsupportedCheckpoint, "missing"),
    ("fewer layers", config(num_hidden_layers=1), UnsupportedCheckpoint, "unknown"),
    ("other width", config(intermediate_size=60), UnsupportedCheckpoint, "misshapen"),
    ("no norm", weights(lambda t: t.pop("model.embed_layer_norm.bias")), UnsupportedCheckpoint, "missing"),
    (
        "a bias",
        weights(lambda t: t.__setitem__("lm_head.bias", torch.ones(3).bfloat16())),
        UnsupportedCheckpoint,
        "bias",
    ),
    ("nan", weights(set_value(float("nan"))), DamagedCheckpoint, "NaN"),
    ("inf", weights(set_value(float("-inf"))), DamagedCheckpoint, "infinite"),
    ("mixed types", weights(lambda t: t.update({k: v.float() for k, v in t.items()})), DamagedCheckpoint, "float32"),
    ("code in a pickle", evil, UnsafeCheckpoint, "more than tensors"),
    ("memory in a pickle", vast, UnsafeCheckpoint, "bytearray"),
    ("absolute name", absolute, UnsafeCheckpoint, "/etc/cron.d/x"),
    ("name that climbs", climbing, UnsafeCheckpoint, r"\.\./x"),
    ("overlapping records", overlapping, UnsafeCheckpoint, "overlap"),
    ("short record", short_record, DamagedCheckpoint, "tensors and its records differ"),
    ("hole in front", padded, UnsafeCheckpoint, "belong to none"),
    ("other values", weights(lambda t: t.__setitem__("x", [1, 2])), UnsafeCheckpoint, "other things"),
    ("a plain pickle", lambda f: (f / FIRST).write_bytes(pickle.dumps(Evil())), DamagedCheckpoint, "cut off"),
    ("expanded", weights(expanded), UnsafeCheckpoint, "claims"),
    ("compressed", compressed, UnsafeCheckpoint, "compressed"),
    ("missing shard", lambda f: (f / SECOND).unlink(), DamagedCheckpoint, SECOND),
    ("no index", lambda f: (f / "pytorch_model.bin.index.json").unlink(), DamagedCheckpoint, "no index"),
    ("no weights", no_weights, DamagedCheckpoint, "no weights"),
    ("cut shard", truncated(SECOND, 0.7), DamagedCheckpoint, "cut off"),
    ("empty shard", truncated(SECOND, 0), DamagedCheckpoint, "cut off"),
    ("flipped bit", flipped, DamagedCheckpoint, "checksum"),
    ("wrong sum", sums, DamagedCheckpoint, "sha256"),
    ("wrong hub hash", hub_hash, DamagedCheckpoint, "sha256"),
    (
        "lfs pointer",
        lambda f: (f / FIRST).write_text("version https://git-lfs.github.com/spec/v1\n"),
        DamagedCheckpoint,
        "lfs",
    ),
    ("link out", linked_out, UnsafeCheckpoint, "link out"),
    ("dangling link", dangling, DamagedCheckpoint, "missing"),
    ("fifo", fifo, UnsafeCheckpoint, "no plain file"),
    ("index climbs", index(weight_map={"lm_head.weight": "../x.bin"}), UnsafeCheckpoint, "in the folder itself"),
    ("index names code", index(weight_map={"lm_head.weight": "x.py"}), UnsafeCheckpoint, "must end"),
    ("index empty", index(weight_map={}), DamagedCheckpoint, "weight_map"),
    ("index disagrees", index(weight_map={"lm_head.weight": FIRST}), DamagedCheckpoint, "disagree"),
    ("config no json", lambda f: (f / "config.json").write_text("{"), DamagedCheckpoint, "JSON"),
    ("config a list", lambda f: (f / "config.json").write_text("[]"), DamagedCheckpoint, "object"),
    ("config nested", lambda f: (f / "config.json").write_text("[" * 10**5), DamagedCheckpoint, "JSON"),
    ("config not utf-8", lambda f: (f / "config.json").write_bytes(b"\xff{}"), DamagedCheckpoint, "UTF-8"),
    ("no config", lambda f: (f / "config.json").unlink(), DamagedCheckpoint, "config.json"),
    ("no tokenizer", lambda f: (f / "tokenizer.model").unlink(), DamagedCheckpoint, "tokenizer.model"),
    ("cut tokenizer", truncated("tokenizer.model", 0.5), DamagedCheckpoint, "cut off"),
    ("other pad", config(pad_token_id=0), DamagedCheckpoint, "pad_token_id"),
    ("ids with a gap", lambda f: bluelm.edit(f / "added_tokens.json", x=99999), DamagedCheckpoint, "gap"),
]


@pytest.mark.parametrize(("breach", "error", "reason"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_a_folder_with_a_fault_is_refused_with_its_reason(
    tmp_path: Path, breach: Breach, error: type[Problem], reason: str
) -> None:
    source = bluelm.write(tmp_path / "source")
    breach(source)
    refused(source, tmp_path / "bases" / "tiny", error=error, reason=reason)
    assert not Path("/tmp/bluelora-pickle-ran").exists()


def refused(
    source: Path, target: Path, *, error: type[Problem], reason: str, name: str = "tiny", **options: Any
) -> None:
    with pytest.raises(error, match=reason) as caught:
        convert(source, target, name=name, progress=lambda done, total: None, **options)
    assert str(source.parent) not in caught.value.detail
    assert not target.parent.exists() or not list(target.parent.iterdir())


@pytest.mark.parametrize(("folder", "name"), [("BlueLM-7B-Chat-32K", "x"), ("bluelm", "my-32k")])
def test_a_32k_name_is_refused(tmp_path: Path, folder: str, name: str) -> None:
    source = bluelm.write(tmp_path / folder)
    refused(source, tmp_path / "bases" / "x", error=LongContextCheckpoint, reason="32K", name=name)


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", tmp_path / "bases" / "x", error=CheckpointNotFound, reason="nowhere")


def test_a_folder_whose_path_is_not_utf8_is_to_be_renamed_not_downloaded_again(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"blue\xff")
    folder.mkdir()
    with pytest.raises(UnsafeCheckpoint, match="rename"):
        convert(folder, tmp_path / "base", name="blue", progress=lambda done, total: None)
    assert not (tmp_path / "base").exists()


def test_a_full_disk_is_told_before_the_first_byte(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    reports: list[int] = []
    with pytest.raises(NoRoomForBase, match="GiB free"):
        convert(
            source,
            tmp_path / "bases" / "x",
            name="x",
            progress=lambda done, total: reports.append(done),
            free_bytes=lambda folder: 1000,
        )
    assert reports == []
    assert not list((tmp_path / "bases").iterdir())


def llama(folder: Path) -> Path:
    base = convert(bluelm.write(folder.parent / "bluelm"), folder, name="x", progress=lambda done, total: None)
    return base.path


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.ones(2, 2)}, folder / "pytorch_model.bin")


def header_bomb(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")


LLAMA_REFUSALS: list[tuple[str, Breach, type[Problem], str]] = [
    ("no fast tokenizer", lambda f: (f / "tokenizer.json").unlink(), UnsupportedCheckpoint, "tokenizer.json"),
    ("torn tokenizer", truncated("tokenizer.json", 0.5), DamagedCheckpoint, "tokenizer.json"),
    ("pickles", as_bin, UnsupportedCheckpoint, "safetensors"),
    ("quantised", config(quantization_config={"bits": 4}), QuantisedCheckpoint, "quantization"),
    ("another head", config(architectures=["LlamaForSequenceClassification"]), UnsupportedCheckpoint, "architectures"),
    ("a tensor short", drop_tensor, DamagedCheckpoint, "is missing"),
    ("cut weights", truncated("model.safetensors", 0.5), DamagedCheckpoint, "cut off"),
    ("header bomb", header_bomb, DamagedCheckpoint, "cut off"),
    ("sizes unsaid", config(hidden_size=...), DamagedCheckpoint, "hidden_size"),
]


@pytest.mark.parametrize(
    ("breach", "error", "reason"), [r[1:] for r in LLAMA_REFUSALS], ids=[r[0] for r in LLAMA_REFUSALS]
)
def test_a_llama_folder_with_a_fault_is_refused(
    tmp_path: Path, breach: Breach, error: type[Problem], reason: str
) -> None:
    source = llama(tmp_path / "llama")
    breach(source)
    refused(source, tmp_path / "bases" / "tiny", error=error, reason=reason)


def cached(folder: Path, cache: Path, *, shared: bool = False) -> Path:
    """Lay a folder out as the Hugging Face cache keeps a repository; `shared` as huggingface_hub 2.4 keeps large files."""
    repository = cache / "models--vivo-ai--BlueLM-7B-Chat"
    snapshot = repository / "snapshots" / ("c" * 40)
    for made in (repository / "blobs", snapshot, cache / "blobs" / "ab"):
        made.mkdir(parents=True, exist_ok=True)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1")
    for path in folder.iterdir():
        content = path.read_bytes()
        large = path.suffix == ".bin"
        name = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest()
        blob = repository / "blobs" / name
        if shared and large:
            (cache / "blobs" / "ab" / name).write_bytes(content)
            blob.symlink_to(f"../../blobs/ab/{name}")
        else:
            blob.write_bytes(content)
        (snapshot / path.name).symlink_to(f"../../blobs/{name}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_of_the_hugging_face_cache_is_taken_as_it_is(tmp_path: Path, *, shared: bool) -> None:
    source = bluelm.write(tmp_path / "source")
    snapshot = cached(source, tmp_path / "hub", shared=shared)
    found = [
        convert(folder, tmp_path / f"{place}", name="x", progress=lambda done, total: None)
        for place, folder in enumerate((source, snapshot))
    ]
    assert found[0].record == found[1].record
    (tmp_path / "link").symlink_to(snapshot)
    assert convert(tmp_path / "link", tmp_path / "1", name="x", progress=lambda done, total: None).reused


def leave_cache(snapshot: Path) -> None:
    outside = snapshot.parents[3] / "outside"
    (snapshot / "config.json").resolve().rename(outside)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(outside)


def other_repository(snapshot: Path) -> None:
    other = snapshot.parents[2] / "models--x--y" / "blobs"
    other.mkdir(parents=True)
    (snapshot / "config.json").resolve().rename(other / "a")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "a")


def blob_leaves(snapshot: Path) -> None:
    blob = (snapshot / "config.json").resolve()
    blob.rename(snapshot.parents[3] / "outside")
    blob.symlink_to(snapshot.parents[3] / "outside")


def no_marker(snapshot: Path) -> None:
    (snapshot.parents[2] / "blobs" / ".huggingface-shared-blobs").unlink()


def other_name(snapshot: Path) -> None:
    snapshot.parents[1].rename(snapshot.parents[2] / "mine")


def altered_blob(snapshot: Path) -> None:
    blob = (snapshot / SECOND).resolve()
    with zipfile.ZipFile(blob) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(blob, "w") as packed:
        for name, data in content.items():
            packed.writestr(name, data)


@pytest.mark.parametrize(
    ("breach", "error", "reason"),
    [
        (leave_cache, UnsafeCheckpoint, "link out"),
        (other_repository, UnsafeCheckpoint, "link out"),
        (blob_leaves, UnsafeCheckpoint, "link out"),
        (no_marker, UnsafeCheckpoint, "link out"),
        (altered_blob, DamagedCheckpoint, "sha256"),
    ],
)
def test_a_snapshot_whose_links_leave_its_repository_is_refused(
    tmp_path: Path, breach: Breach, error: type[Problem], reason: str
) -> None:
    snapshot = cached(bluelm.write(tmp_path / "source"), tmp_path / "hub", shared=True)
    breach(snapshot)
    refused(snapshot, tmp_path / "bases" / "tiny", error=error, reason=reason)


def test_links_of_a_folder_that_only_looks_like_a_cache_are_refused(tmp_path: Path) -> None:
    snapshot = cached(bluelm.write(tmp_path / "source"), tmp_path / "hub")
    other_name(snapshot)
    moved = tmp_path / "hub" / "mine" / "snapshots" / snapshot.name
    refused(moved, tmp_path / "bases" / "tiny", error=UnsafeCheckpoint, reason="link out")


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[0].content }}"}]


@pytest.mark.parametrize("place", ["jinja", "config", "named"])
def test_a_llama_folders_own_template_is_its_chat_format(tmp_path: Path, place: str) -> None:
    source = llama(tmp_path / "llama")
    (source / "chat_template.jinja").unlink()
    if place == "jinja":
        (source / "chat_template.jinja").write_text(NAMED[1]["template"])
    else:
        bluelm.edit(source / "tokenizer_config.json", chat_template=NAMED if place == "named" else NAMED[1]["template"])
    base = convert(source, tmp_path / "base", name="x", progress=lambda done, total: None)
    renderer = Renderer.load(base.path)
    assert base.record.notes == ()
    assert renderer.decode(renderer.prompt([bluelm.turn("user", "你好")])) == "你好"
    theirs = AutoTokenizer.from_pretrained(base.path)
    assert theirs.apply_chat_template([{"role": "user", "content": "你好"}], tokenize=False) == "你好"


HOSTILE = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__.os }}",
    "import": "{{ cycler.__init__.__globals__.os.system('touch /tmp/bluelora-template-ran') }}",
    "change": "{{ messages.clear() }}",
    "division": "{{ 1 / 0 }}",
    "memory": "{{ 'a' * 10 ** 12 }}",
    "number": "{{ 10 ** (10 ** 10) }}",
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "syntax": "{% for %}",
    "file": "{% include '/etc/passwd' %}",
    "refusal": "{{ raise_exception('never') }}",
    "unknown": "{{ messages | nothing }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_cannot_write_a_prompt_is_refused(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LIMIT_S", 2)
    source = llama(tmp_path / "llama")
    (source / "chat_template.jinja").write_text(template)
    refused(source, tmp_path / "bases" / "tiny", error=DamagedCheckpoint, reason="chat template")
    assert not Path("/tmp/bluelora-template-ran").exists()
