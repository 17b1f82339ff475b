"""What is learnt from a row: the tutorial's padded rows and mask, and our flattened ones, give one and the same loss.

Both on bluelm-nano and the sample data set. The tutorial's side is transformers alone: its tokenizer on one rendered
string, its padding, its loss.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from core.ml import attention
from core.ml import model as models
from core.text.chat import Renderer
from core.text.examples import Example
from core.text.packing import flatten
from tests.support import bluelm, nano_model
from tests.support import training as t
from worker.trainer import rows as flat
from worker.trainer.rows import Row

PERSONA = "现在你要扮演旧书店里的一只猫"
COUNT = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_model.imported(tmp_path_factory.mktemp("mask") / "nano")


@pytest.fixture(scope="module")
def plain(base: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    lines = (nano_model.ASSETS / "sample.jsonl").read_text(encoding="utf-8").splitlines()
    found: list[dict[str, str]] = [json.loads(line) for line in lines[:COUNT]]
    return found


@pytest.fixture(scope="module")
def ours(base: Path, records: list[dict[str, str]]) -> list[Example]:
    """The rows as the trainer renders them."""
    renderer = Renderer.load(base)
    return [
        renderer.example(
            bluelm.conversation(("user", one["instruction"] + one["input"]), ("assistant", one["output"])),
            system=PERSONA,
        )
        for one in records
    ]


@pytest.fixture(scope="module")
def theirs(base: Path, records: list[dict[str, str]]) -> list[Example]:
    """The rows as the tutorial writes them: one string, `</s>` behind, and a label on `<s>` too."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    made = []
    for one in records:
        prompt = tokenizer(f"[|Human|]:{PERSONA}\n\n {one['instruction']}{one['input']}[|AI|]:").input_ids
        answer = tokenizer(one["output"], add_special_tokens=False).input_ids
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        labels = [tokenizer.bos_token_id] + [-100] * (len(prompt) - 1) + [*answer, tokenizer.eos_token_id]
        made.append(Example(input_ids=ids, labels=labels, line=1))
    return made


def padded_loss(model: LlamaForCausalLM, rows: Sequence[Example]) -> float:
    """Pad on the right and let transformers shift the labels and average over them."""
    longest = max(map(len, rows))
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([row.input_ids + [3] * (longest - len(row)) for row in rows]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
            labels=torch.tensor([row.labels + [-100] * (longest - len(row)) for row in rows]),
        )
    return float(output.loss)


def flattened_loss(base: Path, row: Row) -> float:
    """The trainer's own way: one row without padding, logits where a label is, borders for attention."""
    model = models.load_base(base, "cpu", torch.float32, attention_name=attention.NAME).eval()
    with torch.no_grad():
        logits_NV = model(**flat.model_inputs(row, torch.device("cpu")), use_cache=False).logits[0]
    return float(cross_entropy(logits_NV.float(), row.targets_N))


def test_the_tutorials_ids_are_ours_and_its_mask_differs_in_the_first_label_alone(
    ours: list[Example], theirs: list[Example]
) -> None:
    for own, other in zip(ours, theirs, strict=True):
        assert own.input_ids == other.input_ids
        assert other.labels[0] == other.input_ids[0] == 1
        assert own.labels == [-100, *other.labels[1:]]


def test_in_a_padded_row_the_tutorials_mask_and_ours_lose_the_same(
    plain: LlamaForCausalLM, ours: list[Example], theirs: list[Example]
) -> None:
    # The shift drops label 0, so these are the same sum in the same order.
    assert padded_loss(plain, theirs) == padded_loss(plain, ours)


def test_a_flattened_row_loses_what_the_padded_one_does(
    base: Path, plain: LlamaForCausalLM, ours: list[Example], theirs: list[Example]
) -> None:
    expected = padded_loss(plain, theirs)
    together = flat.batch([flat.row(one.input_ids, one.labels) for one in ours]).rows
    assert len(together) == 1
    assert flattened_loss(base, together[0]) == pytest.approx(expected, abs=2e-6)
    packed = flatten(ours)
    row = flat.row(packed.input_ids_T, packed.labels_T, starts=packed.starts_S)
    assert flattened_loss(base, row) == pytest.approx(expected, abs=2e-6)


def test_a_label_on_the_first_token_of_a_segment_would_change_the_loss(
    base: Path, plain: LlamaForCausalLM, theirs: list[Example]
) -> None:
    expected = padded_loss(plain, theirs)
    ids = [id_ for one in theirs for id_ in one.input_ids]
    labels = [label for one in theirs for label in one.labels]
    starts = [sum(map(len, theirs[:place])) for place in range(len(theirs))]
    # Without its borders the row has one first token; `<s>` of every other sample is "predicted" from a stranger's end.
    naive = flat.row(ids, labels)
    wrong = Row(
        input_ids_T=naive.input_ids_T,
        position_ids_T=torch.cat([torch.arange(len(one)) for one in theirs]),
        predictors_N=naive.predictors_N,
        targets_N=naive.targets_N,
        lengths=tuple(map(len, theirs)),
    )
    assert wrong.labels == sum(label != -100 for label in labels) - 1
    off = flattened_loss(base, wrong) / expected - 1
    print(f"with `<s>` labelled the loss is off by {off:.1%}")
    assert abs(off) > 0.05
    # The trainer's rows drop such a label even where a file brings it along.
    assert flattened_loss(base, flat.row(ids, labels, starts=starts)) == pytest.approx(expected, abs=2e-6)


def test_the_loss_that_a_job_reports_first_is_the_tutorials(
    base: Path, plain: LlamaForCausalLM, theirs: list[Example], records: list[dict[str, str]], tmp_path: Path
) -> None:
    path = t.write(tmp_path, records)
    given = t.spec(
        system_prompt=PERSONA,
        per_device_train_batch_size=COUNT,
        gradient_accumulation_steps=1,
        max_steps=1,
        lora_dropout=0.0,
    )
    _, heard = t.train(t.run(base, path, tmp_path / "out", given))
    # A fresh LoRA adds nothing, so the first step's loss is the base's.
    assert heard.losses[0] == pytest.approx(padded_loss(plain, theirs), abs=1e-5)
