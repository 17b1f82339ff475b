"""The exact mode learns what transformers and peft learn from padded rows, to rounding."""

from pathlib import Path

import pytest
import torch

from bench.data import Sample
from bench.peers import notebook
from core.ml.model import adapter_weights
from core.text.chat import Renderer
from core.text.examples import Example
from core.text.packing import MICRO_BATCH_TOKENS
from tests.support import tiny_base
from tests.support import training as t
from worker.trainer import data
from worker.trainer.rows import batch, row
from worker.trainer.wishes import Wishes

BATCH = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}


def _examples(base: Path, path: Path) -> list[Example]:
    renderer = Renderer.load(base)
    loaded = data._conversations(data.Source(path=path, sha256=t.sha256(path)))
    return [renderer.example(conversation) for conversation in loaded]


@pytest.mark.parametrize("labels_bos", [False, True], ids=["our mask", "the tutorial's mask"])
def test_twenty_steps_lose_what_padded_peft_loses(base: Path, tmp_path: Path, labels_bos: bool) -> None:
    """27 rows in steps of 6: partial steps at the end of each epoch are among the 20."""
    path = t.write(tmp_path, t.rows(27))
    given = t.spec(**BATCH, max_steps=20, lora_dropout=0.0, learning_rate=1e-4, logging_steps=1, seed=3)
    _, heard = t.train(t.run(base, path, tmp_path / "out", given))
    samples = [
        Sample(input_ids=one.input_ids, labels=[one.input_ids[0], *one.labels[1:]] if labels_bos else one.labels)
        for one in _examples(base, path)
    ]
    peer = notebook.trainer(
        tiny_base.model(),
        samples,
        folder=tmp_path / "peer",
        device="cpu",
        seed=3,
        max_steps=20,
        dropout=0.0,
        batch=3,
        accumulation=2,
        checkpointing=False,
        logging_steps=1,
    )
    peer.train()
    theirs = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
    assert len(theirs) == 20
    assert heard.losses == pytest.approx(theirs, rel=1e-3)
    assert [event.grad_norm for event in heard.progress] == pytest.approx(
        [entry["grad_norm"] for entry in peer.state.log_history if "loss" in entry], rel=1e-3
    )


def test_the_final_adapter_is_the_one_that_padded_peft_trains(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(12))
    given = t.spec(**BATCH, max_steps=4, lora_dropout=0.0, seed=5)
    result, _ = t.train(t.run(base, path, tmp_path / "out", given))
    peer = notebook.trainer(
        tiny_base.model(),
        [Sample(input_ids=one.input_ids, labels=one.labels) for one in _examples(base, path)],
        folder=tmp_path / "peer",
        device="cpu",
        seed=5,
        max_steps=4,
        dropout=0.0,
        batch=3,
        accumulation=2,
        checkpointing=False,
    )
    peer.args.learning_rate = given.learning_rate
    peer.train()
    expected = adapter_weights(peer.model)
    for name, found in t.weights(result).items():
        # Adam divides by the root of tiny second moments, so rounding shows more here than in the loss.
        torch.testing.assert_close(found, expected[name], rtol=1e-2, atol=2e-4, msg=name)


def test_a_label_on_a_first_token_is_dropped_as_the_shift_drops_it() -> None:
    made = row([1, 5, 6, 1, 7], [1, -100, 6, 1, 7], starts=[0, 3])
    assert made.predictors_N.tolist() == [1, 3]
    assert made.targets_N.tolist() == [6, 7]
    assert made.position_ids_T.tolist() == [0, 1, 2, 0, 1]


def test_a_step_is_split_into_micro_batches_without_losing_or_reordering_samples() -> None:
    rows = [row([1, *[number] * size], [-100, *[number] * size]) for number, size in enumerate([4, 3, 9, 1, 2], 10)]
    step = batch(rows, max_tokens=10)
    assert [micro.lengths for micro in step.rows] == [(5, 4), (10,), (2, 3)]
    assert (
        torch.cat([micro.targets_N for micro in step.rows]).tolist() == [10] * 4 + [11] * 3 + [12] * 9 + [13] + [14] * 2
    )
    assert (step.labels, step.tokens) == (19, 24)
    for micro in step.rows:
        assert micro.input_ids_T[micro.predictors_N + 1].tolist() == micro.targets_N.tolist()


def test_a_step_of_several_micro_batches_loses_what_a_padded_step_loses(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(150))
    examples = _examples(base, path)
    assert sum(len(one) for one in examples) * 120 / len(examples) > MICRO_BATCH_TOKENS
    given = t.spec(per_device_train_batch_size=30, gradient_accumulation_steps=4, max_steps=2, lora_dropout=0.0)
    _, heard = t.train(t.run(base, path, tmp_path / "out", given))
    peer = notebook.trainer(
        tiny_base.model(),
        [Sample(input_ids=one.input_ids, labels=one.labels) for one in examples],
        folder=tmp_path / "peer",
        device="cpu",
        seed=given.seed,
        max_steps=2,
        dropout=0.0,
        batch=30,
        accumulation=4,
        checkpointing=False,
        logging_steps=1,
    )
    peer.args.learning_rate = given.learning_rate
    peer.train()
    assert heard.losses == pytest.approx(
        [entry["loss"] for entry in peer.state.log_history if "loss" in entry], rel=1e-4
    )


def test_the_persona_and_the_mask_are_the_tutorials(base: Path, tmp_path: Path) -> None:
    """`<s>[|Human|]:{persona}\\n\\n {instruction}[|AI|]:` is read, the answer and `</s>` are learnt."""
    path = t.write(tmp_path, [{"instruction": "问", "input": "", "output": "答"}])
    loaded = data.load(
        data.Source(path=path, sha256=t.sha256(path)),
        None,
        spec=t.spec(system_prompt="扮演"),
        renderer=Renderer.load(base),
        wishes=Wishes(),
    )
    pieces = tiny_base.PIECES
    ids = [pieces[at] for at in loaded.rows[0].input_ids_T.tolist()]
    text = [f"<0x{byte:02X}>" for byte in "扮演\n\n".encode()] + ["▁"] + [f"<0x{byte:02X}>" for byte in "问".encode()]
    answer = ["▁", *[f"<0x{byte:02X}>" for byte in "答".encode()], "</s>"]
    assert ids == ["<s>", "[|Human|]:", "▁", *text, "[|AI|]:", *answer]
    assert [pieces[at] for at in loaded.rows[0].targets_N.tolist()] == answer
