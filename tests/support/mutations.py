"""Ways to spoil a model folder, each drawn by a random generator: files, JSON, archives, pickles, tensors, tokenizers."""

import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2

MOST_BYTES = 2**21
Mutation = Callable[[Path, random.Random], object]
ODD: tuple[Any, ...] = (
    None, True, False, "", "x", "1", -1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**200, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    [], {}, [[]], [1], ["x"], {"x": 1}, "a" * 10**5, "../x", "/etc/passwd", "pytorch_model-00001-of-00003.bin", "\x00", "\ud800",
)  # fmt: skip


def files(folder: Path, ending: str = "") -> list[Path]:
    """List what is there to spoil; what was made huge before is left alone."""
    plain = (path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    found = (path for path in plain if path.name.endswith(ending))
    return sorted(path for path in found if path.stat().st_size <= MOST_BYTES)


def pick(folder: Path, rng: random.Random, ending: str = "") -> Path | None:
    """Draw a file."""
    found = files(folder, ending)
    return rng.choice(found) if found else None


def flip_bits(folder: Path, rng: random.Random) -> None:
    """Flip a few bits anywhere."""
    if (path := pick(folder, rng)) and (data := bytearray(path.read_bytes())):
        # Ends hold directories and headers, which are short beside the tensors.
        places = [
            rng.randrange(len(data)),
            rng.randrange(min(len(data), 400)),
            -1 - rng.randrange(min(len(data), 4000)),
        ]
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.choice(places)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def truncate(folder: Path, rng: random.Random) -> None:
    """Cut a file off."""
    if path := pick(folder, rng):
        os.truncate(path, rng.randrange(path.stat().st_size + 1))


def extend(folder: Path, rng: random.Random) -> None:
    """Add rubbish at an end."""
    if path := pick(folder, rng):
        junk = rng.randbytes(rng.choice((1, 8, 1000)))
        path.write_bytes(path.read_bytes() + junk if rng.random() < 0.7 else junk + path.read_bytes())


def hole(folder: Path, rng: random.Random) -> None:
    """Make a file huge, without a byte of disk."""
    if path := pick(folder, rng):
        os.truncate(path, path.stat().st_size + rng.choice((2**20, 2**27, 3 * 2**30, 2**40)))


def replace(folder: Path, rng: random.Random) -> None:
    """Put something else in a file's place."""
    if not (path := pick(folder, rng)):
        return
    path.unlink()
    match rng.randrange(9):
        case 0:
            path.write_bytes(b"")
        case 1:
            path.write_bytes(rng.randbytes(rng.choice((1, 100, 10**5))))
        case 2:
            path.mkdir()
        case 3:
            os.mkfifo(path)
        case 4:
            path.symlink_to(rng.choice(("nowhere", "/etc/passwd", path.name, "..", "/dev/zero", "/proc/self/mem")))
        case 5:
            path.symlink_to((pick(folder, rng) or path).name)
        case 6:
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case 7:
            path.write_bytes(b"[" * 10**5)
        case _:
            pass


def swap(folder: Path, rng: random.Random) -> None:
    """Exchange two files, or write one over another."""
    one, two = pick(folder, rng), pick(folder, rng)
    if one and two:
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        if rng.random() < 0.5:
            two.write_bytes(first)


def add(folder: Path, rng: random.Random) -> None:
    """Add a file that may be looked for, or may not."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "chat_template.jinja", "SHA256SUMS",
             "added_tokens.json", "modeling_bluelm.py", "README.md", "segments.model", "import.json", "journal.json",
             "tokenizer.json", "pytorch_model-00004-of-00003.bin", ".cache")  # fmt: skip
    path = folder / rng.choice(names)
    if not path.exists() and not path.is_symlink():
        other = pick(folder, rng)
        path.write_bytes(other.read_bytes() if other and rng.random() < 0.5 else rng.randbytes(50))


def change_json(folder: Path, rng: random.Random) -> None:
    """Change, remove or add members of a JSON file, the config's most of all."""
    path = pick(folder, rng, "config.json" if rng.random() < 0.5 else ".json")
    value = _json(path)
    if path is None or not isinstance(value, dict) or not value:
        return
    for _ in range(rng.choice((1, 1, 3))):
        holder = value
        while isinstance(inner := rng.choice([*holder.values(), None]), dict) and inner and rng.random() < 0.8:
            holder = inner
        name = rng.choice(list(holder))
        match rng.randrange(6):
            case 0:
                holder.pop(name)
            case 1:
                holder[rng.choice(("x", "quantization_config", "rope_scaling", name.upper()))] = rng.choice(ODD)
            case 2 if holder:
                holder[name] = rng.choice(list(holder.values()))
            case 3 if isinstance(holder[name], int | float):
                holder[name] = holder[name] * rng.choice((-1, 2, 0.5, 10**6))
            case _:
                holder[name] = rng.choice(ODD)
        if not holder:
            break
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text.replace("{", "{" + '"x":' + "[" * 5000 + "]" * 5000 + ",", 1)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def change_index(folder: Path, rng: random.Random) -> None:
    """Let the index say something else."""
    path = pick(folder, rng, ".index.json")
    value = _json(path)
    if path is None or not isinstance(value, dict) or not isinstance(value.get("weight_map"), dict):
        return
    listed = value["weight_map"]
    name = rng.choice(list(listed) or ["x"])
    match rng.randrange(5):
        case 0:
            listed.pop(name, None)
        case 1:
            listed[name] = rng.choice([*listed.values(), *ODD])
        case 2:
            listed[rng.choice(("x", name + ".x", "lm_head.bias"))] = rng.choice([*listed.values(), *ODD])
        case 3:
            value["metadata"] = rng.choice(ODD)
        case _:
            value["weight_map"] = dict(zip(listed, rng.sample(list(listed.values()), len(listed)), strict=True))
    path.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))


def change_archive(folder: Path, rng: random.Random) -> None:
    """Write a .bin anew, sound as a zip, with other records or another pickle."""
    path = pick(folder, rng, ".bin")
    if path is None or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            content = [(record.filename, archive.read(record)) for record in archive.infolist()]
    except Exception:  # noqa: BLE001  (it was spoilt before)
        return
    place = rng.randrange(len(content))
    pickled = next((n for n, (name, _) in enumerate(content) if name.endswith("data.pkl")), place)
    match rng.randrange(8):
        case 0:
            content.pop(place)
        case 1:
            content[place] = (rng.choice(("x", "/etc/x", "a/../../x", content[0][0])), content[place][1])
        case 2:
            content[place] = (content[place][0], content[place][1][: rng.randrange(len(content[place][1]) + 1)])
        case 3:
            content.append((rng.choice(("archive/constants.pkl", "archive/data.pkl", "x")), rng.randbytes(20)))
        case 4:
            other = rng.randrange(len(content))
            content[place], content[other] = (
                (content[place][0], content[other][1]),
                (content[other][0], content[place][1]),
            )
        case _:
            content[pickled] = (content[pickled][0], _opcodes(content[pickled][1], rng))
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in content:
            packed.writestr(zipfile.ZipInfo(name), data, compress_type=method)


def _opcodes(data: bytes, rng: random.Random) -> bytes:
    opcodes = (
        b"(.0123FGHIJKLMNPQRSTUVX]abcdeghijlopqrstu})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8f\x92\x93\x94\x95"
    )
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 6))):
        place = rng.randrange(len(made) or 1)
        match rng.randrange(6):
            case 0:
                made[place : place + 1] = bytes([rng.choice(opcodes)])
            case 1:
                made[place:place] = bytes([rng.choice(opcodes)])
            case 2:
                del made[place : place + rng.choice((1, 2, 20))]
            case 3:
                made[place:place] = made[place : place + rng.choice((3, 30, 300))]
            case 4:
                other = rng.choice(
                    (b"builtins\neval", b"builtins\nbytearray", b"torch\nload", b"torch.nn.parameter\nParameter")
                )
                made = bytearray(bytes(made).replace(b"torch._utils\n_rebuild_tensor_v2", other))
            case _:
                number = rng.choice((b"\x8a\x05\xff\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"M\xff\xff", b"N", b"]"))
                made = bytearray(bytes(made).replace(b"K ", number, rng.choice((1, 5))))
    return bytes(made)


def change_tensors(folder: Path, rng: random.Random) -> None:
    """Save a shard anew with other tensors."""
    path = pick(folder, rng, ".bin") if rng.random() < 0.6 else pick(folder, rng, ".safetensors")
    try:
        safe = path is not None and path.name.endswith(".safetensors")
        tensors: dict[str, Any] = dict(load_file(path) if safe else torch.load(path, weights_only=True))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  (it was spoilt before)
        return
    if path is None or not tensors:
        return
    name = rng.choice(list(tensors))
    tensors[name] = _spoilt(tensors[name], rng)
    if tensors[name] is None or rng.random() < 0.1:
        spoilt = tensors.pop(name)
        if rng.random() < 0.5 and spoilt is not None:
            tensors[name + rng.choice((".x", "", "qweight", "\x00"))] = spoilt
    try:
        save_file(tensors, path, metadata={"format": "pt"}) if safe else torch.save(tensors, path)
    except Exception:  # noqa: BLE001  (the container can't hold it)
        return


def _spoilt(tensor: torch.Tensor, rng: random.Random) -> Any:
    spoilers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        tensor.float,
        lambda: tensor.to(torch.int8),
        tensor.double,
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.flatten()[:0],
        lambda: tensor.flatten()[0],
        lambda: tensor[..., :-1],
        lambda: torch.cat([tensor, tensor]),
        tensor.flatten,
        lambda: tensor.T if tensor.dim() == 2 else tensor.flip(0),
        lambda: torch.full_like(tensor, float("nan")),
        lambda: tensor.clone().flatten().index_fill(0, torch.tensor([rng.randrange(tensor.numel())]), float("inf")).view_as(tensor),
        lambda: torch.zeros_like(tensor),
        lambda: tensor * 1e4,
        lambda: tensor + 0.01,
        lambda: torch.nn.Parameter(tensor),
        tensor.to_sparse,
        lambda: torch.zeros(1, dtype=tensor.dtype).expand(10**4, *tensor.shape),
        lambda: [tensor],
        lambda: {"x": tensor},
        lambda: "text",
    )  # fmt: skip
    try:
        return rng.choice(spoilers)()
    except Exception:  # noqa: BLE001  (this tensor can't be spoilt so)
        return tensor


def change_header(folder: Path, rng: random.Random) -> None:
    """Change the header of a safetensors file."""
    path = pick(folder, rng, ".safetensors")
    if path is None:
        return
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        entry = header[rng.choice(list(header))]
        field = rng.choice(list(entry))
    except (ValueError, TypeError, LookupError):
        return
    odd: tuple[Any, ...] = (
        "F32", "F16", "I8", "BF16", "X", [0, 2**62], [2**62, 0], [-1, 4], [0, 0], [], [2**40, 2**40], [1], [1.5], 7, None
    )  # fmt: skip
    entry[field] = rng.choice(odd)
    text = json.dumps(header).encode()
    if rng.random() < 0.2:
        text = text.replace(b"{", b'{"lm_head.weight":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},', 1)
    text += b" " * (-len(text) % 8)
    length = len(text) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, 100 * 2**20))
    path.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])


def change_pieces(folder: Path, rng: random.Random) -> None:
    """Write a tokenizer.model that parses, with other contents."""
    path = pick(folder, rng, "tokenizer.model")
    if path is None:
        return
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    except Exception:  # noqa: BLE001  (it was spoilt before)
        return
    if not model.pieces:
        return
    _change_one(model, rng) if rng.random() < 0.5 else _change_settings(model, rng)
    path.write_bytes(model.SerializeToString())


def _change_one(model: Any, rng: random.Random) -> None:
    piece = rng.choice(model.pieces)
    match rng.randrange(7):
        case 0:
            piece.score = rng.choice((float("nan"), float("inf"), -1e30, 0.0))
        case 1:
            piece.type = rng.choice((1, 2, 3, 4, 5, 6))
        case 2:
            piece.piece = rng.choice(("", "x", "▁", "<s>", model.pieces[0].piece, "\x00", "字" * 1000))
        case 3:
            model.pieces.remove(piece)
        case 4:
            model.pieces.add(piece=rng.choice(("新词", piece.piece)), score=-1.0, type=1)
        case 5:
            del model.pieces[rng.randrange(len(model.pieces)) :]
        case _:
            model.pieces[3].piece = "<x>"


def _change_settings(model: Any, rng: random.Random) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    match rng.randrange(5):
        case 0:
            trainer.model_type = rng.choice((1, 3, 4))
        case 1:
            field = rng.choice(("byte_fallback", "treat_whitespace_as_suffix", "unk_id", "pad_id", "vocab_size"))
            setattr(trainer, field, rng.choice((0, 1)))
        case 2:
            field = rng.choice(("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"))
            setattr(normalizer, field, not getattr(normalizer, field))
        case 3:
            normalizer.precompiled_charsmap = rng.randbytes(rng.choice((1, 4, 100)))
        case _:
            model.denormalizer_spec.precompiled_charsmap = rng.randbytes(8)


ALL: tuple[Mutation, ...] = (
    flip_bits, flip_bits, truncate, extend, hole, replace, swap, add, change_json, change_json, change_json, change_index,
    change_archive, change_archive, change_archive, change_tensors, change_tensors, change_tensors, change_header,
    change_header, change_pieces, change_pieces,
)  # fmt: skip


def spoil(folder: Path, rng: random.Random) -> list[str]:
    """Apply one to three mutations and name them."""
    chosen = [rng.choice(ALL) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for mutation in chosen:
        mutation(folder, rng)
    return [mutation.__name__ for mutation in chosen]


def _json(path: Path | None) -> Any:
    try:
        return json.loads(path.read_bytes()) if path else None
    except (ValueError, RecursionError):
        return None
