"""Flattened rows are exact: what is computed for a sample does not depend on its neighbours."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from core.ml import attention
from tests.support import tiny_base
from tests.support.tiny_base import Shape

LENGTHS = [5, 1, 17, 9]


def _model(shape: Shape, name: str) -> LlamaForCausalLM:
    attention.register()
    model: LlamaForCausalLM = tiny_base.model(shape).eval()
    model.set_attn_implementation(name)
    return model


def _flattened(samples: list[Tensor]) -> dict[str, object]:
    borders = torch.tensor([0, *[len(sample) for sample in samples]], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return {
        "input_ids": torch.cat(samples).unsqueeze(0),
        "position_ids": torch.cat([torch.arange(len(sample)) for sample in samples]).unsqueeze(0),
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(len(sample) for sample in samples),
        "max_length_k": max(len(sample) for sample in samples),
        "use_cache": False,
    }


def _samples() -> list[Tensor]:
    source = torch.Generator().manual_seed(3)
    return [torch.randint(4, tiny_base.ROWS, (length,), generator=source) for length in LENGTHS]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_flattened_row_gives_each_sample_the_logits_it_has_alone(kv_heads: int) -> None:
    shape = Shape(heads=4, kv_heads=kv_heads)
    samples = _samples()
    together = _model(shape, attention.NAME)(**_flattened(samples)).logits[0].split(LENGTHS)
    plain = _model(shape, "eager")
    for sample, found in zip(samples, together, strict=True):
        alone = plain(input_ids=sample.unsqueeze(0), use_cache=False).logits[0]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_a_single_sample_needs_no_padding_and_is_exact_too() -> None:
    sample = _samples()[2]
    found = _model(Shape(), attention.NAME)(**_flattened([sample])).logits[0]
    alone = _model(Shape(), "eager")(input_ids=sample.unsqueeze(0), use_cache=False).logits[0]
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_flattened_row_are_the_sum_over_its_samples() -> None:
    samples = _samples()
    together, plain = _model(Shape(), attention.NAME), _model(Shape(), "eager")
    together(**_flattened(samples)).logits.square().sum().backward()
    for sample in samples:
        plain(input_ids=sample.unsqueeze(0), use_cache=False).logits.square().sum().backward()
    for (name, ours), theirs in zip(together.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3, msg=name)


def test_a_changed_sample_changes_nothing_of_its_neighbours() -> None:
    samples = _samples()
    model = _model(Shape(), attention.NAME)
    before = model(**_flattened(samples)).logits[0].split(LENGTHS)
    samples[2] = samples[2].flip(0)
    after = model(**_flattened(samples)).logits[0].split(LENGTHS)
    for place in (0, 1, 3):
        assert torch.equal(before[place], after[place])
    assert not torch.allclose(before[2], after[2])


@pytest.mark.parametrize("missing", ["cu_seq_lens_q", "max_length_q"])
def test_a_row_without_borders_is_refused(missing: str) -> None:
    inputs = _flattened(_samples())
    del inputs[missing]
    with pytest.raises(ValueError, match="one flattened row"):
        _model(Shape(), attention.NAME)(**inputs)


def test_a_padded_batch_is_refused_since_its_mask_would_be_lost() -> None:
    with pytest.raises(ValueError, match="one flattened row"):
        _model(Shape(), attention.NAME)(
            input_ids=torch.zeros(2, 4, dtype=torch.int64), attention_mask=torch.ones(2, 4), use_cache=False
        )
