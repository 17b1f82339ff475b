"""What no single field of a spec can tell."""

import pytest

from core.domain.training import InvalidSpec, Limits, TrainSpec, resolve

LIMITS = Limits(base_model="base", context_length=2048, max_lora_rank=64)


def test_a_constant_rate_refuses_the_warmup_that_it_would_ignore() -> None:
    spec = TrainSpec(dataset="ds", name="a", lr_scheduler_type="constant", warmup_ratio=0.1)
    with pytest.raises(InvalidSpec, match="constant learning rate has no warm-up") as caught:
        resolve(spec, dataset="ds_1", validation_dataset=None, limits=LIMITS)
    assert caught.value.param == "warmup_ratio"
    with_warmup = TrainSpec(dataset="ds", name="a", lr_scheduler_type="constant_with_warmup", warmup_ratio=0.1)
    assert resolve(with_warmup, dataset="ds_1", validation_dataset=None, limits=LIMITS).warmup_ratio == 0.1


def test_a_constant_rate_leaves_out_the_presets_warmup() -> None:
    spec = TrainSpec(dataset="ds", name="a", preset="chat-1", lr_scheduler_type="constant")
    resolved = resolve(spec, dataset="ds_1", validation_dataset=None, limits=LIMITS)
    assert (resolved.warmup_ratio, resolved.lora_dropout) == (0.0, 0.05)
