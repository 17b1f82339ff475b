"""BlueLM folders made here, imported, and held against a literal BlueLM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.domain.bases import BaseConflict
from core.ml import folding, probes, staging
from core.ml.convert import convert
from core.ml.importing import main
from core.ml.records import Imported
from core.text import markers
from core.text.chat import Renderer
from tests.support import bluelm


def ignored(done: int, total: int) -> None:
    """Nobody watches."""


def imported(source: Path, target: Path, *, max_shard_bytes: int = 2**30) -> Imported:
    return convert(source, target, name="tiny", progress=ignored, max_shard_bytes=max_shard_bytes)


def test_bf16_rows_differ_by_at_most_one_unit_and_the_pad_row_is_the_bias(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source", shape=bluelm.Shape(hidden=256, heads=4))
    base = imported(source, tmp_path / "base")
    shape = bluelm.Shape(hidden=256, heads=4)
    weights = bluelm.tensors(shape, rows=base.record.rows)
    folded = load_file(base.path / "model.safetensors")["model.embed_tokens.weight"]
    norm, bias = weights["model.embed_layer_norm.weight"], weights["model.embed_layer_norm.bias"]
    exact = torch.nn.functional.layer_norm(
        weights["model.embed_tokens.weight"].float(), (256,), norm.float(), bias.float(), 1e-6
    )
    assert folded.dtype == torch.bfloat16
    steps = folded.view(torch.int16).int() - exact.to(torch.bfloat16).view(torch.int16).int()
    sizable = exact.abs() > 1e-3  # nearer to zero fp32 itself has fewer digits than bf16 units are fine
    assert int(steps[sizable].abs().max()) <= 1
    assert torch.equal(folded[3], bias)
    assert base.record.max_ulp is not None
    assert base.record.max_ulp <= 1
    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert torch.equal(model.get_input_embeddings().weight[3], bias)


@pytest.mark.parametrize("seed", range(50))
def test_folded_rows_of_random_tables_differ_by_at_most_one_unit(seed: int) -> None:
    """In bf16 steps where fp32 has digits for them, by `difference_ulp` everywhere."""
    generator = torch.Generator().manual_seed(seed)
    rows, hidden = 200 + 37 * seed, 16 * (1 + seed % 16)
    spread = 10.0 ** float(torch.empty(()).uniform_(-3, 1, generator=generator))
    table = (torch.randn(rows, hidden, generator=generator) * spread).bfloat16()
    norm = (1 + torch.randn(hidden, generator=generator) * 0.3).bfloat16()
    bias = (torch.randn(hidden, generator=generator) * 0.3).bfloat16()
    table[3] = 0
    folded = folding.fold(table, norm, bias, eps=1e-6)
    assert folding.difference_ulp(folded, table, norm, bias, eps=1e-6) <= 1
    exact = torch.nn.functional.layer_norm(table.float(), (hidden,), norm.float(), bias.float(), 1e-6).bfloat16()
    steps = (folded.view(torch.int16).int() - exact.view(torch.int16).int()).abs()
    assert int(steps[exact.abs() > 1e-2].max()) <= 1
    assert torch.equal(folded[3], bias)


def test_the_check_of_the_fold_sees_another_eps() -> None:
    table = bluelm.tensors(bluelm.Shape(hidden=64), rows=64, dtype=torch.bfloat16)
    parts = [table[f"model.embed_{name}"] for name in ("tokens.weight", "layer_norm.weight", "layer_norm.bias")]
    small = parts[0] * 1e-2
    wrong = folding.fold(small, *parts[1:], eps=1e-5)
    assert folding.difference_ulp(wrong, small, *parts[1:], eps=1e-6) > 1


def test_untouched_tensors_are_bit_equal_and_the_layer_norm_is_gone(tmp_path: Path) -> None:
    base = imported(bluelm.write(tmp_path / "source"), tmp_path / "base")
    weights = bluelm.tensors(bluelm.Shape(), rows=base.record.rows)
    written = load_file(base.path / "model.safetensors")
    assert weights.keys() - written.keys() == {"model.embed_layer_norm.weight", "model.embed_layer_norm.bias"}
    assert all(torch.equal(written[n], weights[n]) for n in written if n != "model.embed_tokens.weight")
    assert base.record.parameters == sum(tensor.numel() for tensor in written.values())


def test_the_tensor_and_not_the_config_counts_the_rows(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source", shape=bluelm.Shape(spare_rows=9))
    bluelm.edit(source / "config.json", vocab_size=100096)
    base = imported(source, tmp_path / "base")
    config = json.loads((base.path / "config.json").read_text())
    assert config["vocab_size"] == load_file(base.path / "model.safetensors")["lm_head.weight"].shape[0] != 100096


def test_bin_single_bin_and_safetensors_give_the_same_fingerprint(tmp_path: Path) -> None:
    sharded = bluelm.write(tmp_path / "sharded")
    rows = json.loads((sharded / "config.json").read_text())["vocab_size"]
    weights = bluelm.tensors(bluelm.Shape(), rows=rows)
    found = {imported(sharded, tmp_path / "a").record.fingerprint}
    for kind in ("single", "safe"):
        folder = bluelm.write(tmp_path / kind)
        for file in folder.glob("pytorch_model*"):
            file.unlink()
        if kind == "single":
            torch.save(
                weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "pytorch_model.bin"
            )
        else:
            save_file(weights, folder / "model.safetensors")
        found.add(imported(folder, tmp_path / f"{kind}-base").record.fingerprint)
    assert len(found) == 1


def test_a_second_import_is_a_no_op(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    first = imported(source, tmp_path / "base")
    before = {p.name: p.stat().st_mtime_ns for p in first.path.iterdir()}
    again = imported(source, tmp_path / "base")
    assert again.reused
    assert again.members() | {"reused": False} == first.members()
    assert {p.name: p.stat().st_mtime_ns for p in first.path.iterdir()} == before


def test_what_an_import_from_elsewhere_left_is_replaced_and_any_other_folder_is_not(tmp_path: Path) -> None:
    imported(bluelm.write(tmp_path / "other", seed=1), tmp_path / "base")
    source = bluelm.write(tmp_path / "source")
    assert imported(source, tmp_path / "base").record == imported(source, tmp_path / "clean").record
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("dear")
    with pytest.raises(BaseConflict, match="no import made it"):
        imported(source, tmp_path / "mine")
    assert (tmp_path / "mine" / "letters.txt").read_text() == "dear"


def test_a_registered_base_from_the_same_files_is_reused_and_from_others_a_conflict(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    known = imported(source, tmp_path / "known").path
    again = convert(source, tmp_path / "base", name="tiny", progress=ignored, registered=known)
    assert again.reused
    assert not (tmp_path / "base").exists()
    other = bluelm.write(tmp_path / "other", seed=1)
    with pytest.raises(BaseConflict, match="other files"):
        convert(other, tmp_path / "base", name="tiny", progress=ignored, registered=known)
    bluelm.edit(known / "import.json", converter=0)
    with pytest.raises(BaseConflict, match="another version"):
        convert(source, tmp_path / "base", name="tiny", progress=ignored, registered=known)


def test_an_altered_base_is_not_taken_for_the_import(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    base = imported(source, tmp_path / "base")
    (base.path / "config.json").write_text("{}")
    again = imported(source, tmp_path / "base")
    assert not again.reused
    assert again.files == base.files


def test_two_imports_of_one_name_do_not_write_at_once(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    with staging.staged(tmp_path / "base") as stage:
        (stage / "config.json").write_text("{}")
        with pytest.raises(BaseConflict, match="running"):
            imported(source, tmp_path / "base")
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["config.json"]


def test_the_folder_holds_no_code_and_no_time(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    one, two = imported(source, tmp_path / "one"), imported(source, tmp_path / "two")
    assert [file.sha256 for file in one.files] == [file.sha256 for file in two.files]
    assert not list(one.path.glob("*.py"))
    assert "auto_map" not in (one.path / "config.json").read_text()


def test_transformers_reads_the_tokenizer_as_it_is(tmp_path: Path) -> None:
    base = imported(bluelm.write(tmp_path / "source"), tmp_path / "base")
    theirs = AutoTokenizer.from_pretrained(base.path)
    renderer = Renderer.load(base.path)
    ours = bluelm.chat_of(renderer).segments
    for text in probes.WRITTEN:
        if not any(special in text for special in markers.SPECIALS):
            assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text)
            assert theirs.decode(ours.encode(text)) == text.replace("▁", " ")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 3)
    messages = [
        {"role": "system", "content": " 你是半砚 \n"},
        {"role": "user", "content": "\n你是谁？ "},
        {"role": "assistant", "content": " 我是半砚。\n"},
        {"role": "user", "content": "再说一次  "},
    ]
    prompt = renderer.prompt([bluelm.turn(m["role"], m["content"]) for m in messages])
    assert theirs.apply_chat_template(messages, tokenize=True, return_dict=False) == prompt


def test_generation_ends_at_the_end_of_text_and_at_the_users_marker(tmp_path: Path) -> None:
    base = imported(bluelm.write(tmp_path / "source"), tmp_path / "base")
    config = json.loads((base.path / "generation_config.json").read_text())
    human = bluelm.chat_of(Renderer.load(base.path)).marks.human
    assert config == {"bos_token_id": 1, "eos_token_id": [2, human], "pad_token_id": 3}


def test_a_base_model_without_markers_is_imported_without_a_chat_format(tmp_path: Path) -> None:
    base = imported(bluelm.write(tmp_path / "source", chat=False), tmp_path / "base")
    assert not Renderer.load(base.path).can_chat
    assert any("base model" in note for note in base.record.notes)
    assert not (base.path / "chat_template.jinja").exists()


def test_a_tokenizer_that_cannot_be_converted_exactly_stays_sentencepiece_and_says_so(tmp_path: Path) -> None:
    model = bluelm.pieces(user_defined_symbols="你是,▁ab▁")
    base = imported(bluelm.write(tmp_path / "source", model=model), tmp_path / "base")
    assert base.record.segment_encoder == "sentencepiece"
    assert any("SentencePiece stays" in note for note in base.record.notes)
    processor = bluelm.processor(model)
    renderer = Renderer.load(base.path)
    ids = renderer.prompt([bluelm.turn("user", "天 ab 你是谁 ab ")])
    assert ids[2:-1] == processor.encode("天 ab 你是谁 ab")


def test_a_llama_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    first = imported(bluelm.write(tmp_path / "source"), tmp_path / "base")
    (first.path / "README.md").write_text("not a part of the model")
    again = imported(first.path, tmp_path / "again")
    assert again.record.already_llama
    assert again.record.fingerprint == first.record.fingerprint
    assert again.record.template_hash == first.record.template_hash
    assert "README.md" not in {file.name for file in again.files}


def test_the_command_speaks_json_lines(tmp_path: Path) -> None:
    source = bluelm.write(tmp_path / "source")
    command = [sys.executable, "-m", "core.ml.importing", str(source), str(tmp_path / "base"), "--name", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    *progress, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["path"] == str(tmp_path / "base")
    assert {file["name"] for file in last["files"]} == {path.name for path in (tmp_path / "base").iterdir()}
    assert [line["progress"]["done_bytes"] for line in progress] == sorted(
        line["progress"]["done_bytes"] for line in progress
    )
    assert progress[-1]["progress"]["done_bytes"] == progress[-1]["progress"]["total_bytes"]


@pytest.mark.parametrize(
    ("source", "code"), [("nowhere", "checkpoint_not_found"), ("vivo-ai/BlueLM-7B-Chat-32K", "long_context_checkpoint")]
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, code: str
) -> None:
    assert main([source, str(tmp_path / "base"), "--name", "x"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_hub_id_without_a_network_is_told_as_such(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "core.ml.importing",
        "vivo-ai/BlueLM-7B-Chat",
        str(tmp_path / "base"),
        "--name",
        "x",
    ]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=offline)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "hub_unavailable"
    assert not (tmp_path / "base").exists()


def test_bluelm_nano_is_imported_as_the_releases_would_be(tmp_path: Path) -> None:
    source = Path(__file__).parents[3] / "assets" / "bluelm-nano"
    base = imported(source, tmp_path / "nano")
    assert base.record.notes == ()
    assert base.record.segment_encoder == "tokenizers"
    assert base.record.max_ulp is not None
    assert base.record.max_ulp <= 1
    renderer = Renderer.load(base.path)
    assert renderer.base_layout == "bluelm"
