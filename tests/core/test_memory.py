"""The memory formula against what autograd really keeps, tensor by tensor."""

from dataclasses import replace

import pytest
import torch

from bench import shapes
from bench.kept import Kept
from core.domain import memory
from core.domain.checkpoints import DamagedCheckpoint
from core.domain.memory import Dimensions, Load
from core.domain.training import MODULES, TrainSpec
from core.ml import attention
from core.ml import model as models
from worker.trainer import rows as flat

SHAPE = replace(shapes.SHAPES["tiny"], hidden=256, intermediate=688, heads=2, layers=8, rows=500)
BASE = Dimensions(
    hidden=256, intermediate=688, layers=8, heads=2, kv_heads=2, head_dim=128, vocabulary=500, parameters=1_000_000
)
TOKENS, LABELS = 400, 20


def _kept(spec: TrainSpec, *, autocast: bool) -> int:
    """Train one row and count what lay in memory between forward and backward."""
    attention.register()
    dtype = torch.bfloat16 if autocast else torch.float32
    base = shapes.build(SHAPE, device="cpu", dtype=dtype, seed=0, attention_name=attention.NAME)
    lora = models.Lora(r=spec.r, lora_alpha=16, lora_dropout=spec.lora_dropout, target_modules=spec.target_modules)
    model = models.add_lora(base, lora).train()
    ids = [4 + place % 400 for place in range(TOKENS)]
    row = flat.row(ids, [-100] * (TOKENS - LABELS) + ids[-LABELS:])
    with Kept(model) as kept, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**flat.model_inputs(row, torch.device("cpu")), use_cache=False).logits
        logits.float().sum().backward()
    return kept.peak_bytes


@pytest.mark.parametrize("modules", [list(MODULES), ["q_proj", "v_proj"], ["o_proj", "down_proj"]], ids="+".join)
@pytest.mark.parametrize(("autocast", "dropout"), [(True, 0.0), (False, 0.0), (False, 0.1)])
def test_a_pass_keeps_what_the_formula_says(modules: list[str], autocast: bool, dropout: float) -> None:
    """Dropout under autocast is a GPU's kernel with a mask of bytes; the bench row M1 measures it there."""
    spec = TrainSpec(dataset="ds", name="m", r=4, lora_dropout=dropout, target_modules=modules)
    load = Load(tokens=TOKENS, labels=LABELS, slots=TOKENS)
    planned = memory.kept_bytes(BASE, spec, load, "bf16" if autocast else "fp32")
    assert planned == pytest.approx(_kept(spec, autocast=autocast), rel=0.06)


def test_an_adapter_has_as_many_weights_as_peft_makes() -> None:
    spec = TrainSpec(dataset="ds", name="m", r=6, target_modules=["k_proj", "gate_proj", "down_proj"])
    base = shapes.build(SHAPE, device="cpu", dtype=torch.float32, seed=0, attention_name=attention.NAME)
    lora = models.Lora(r=6, lora_alpha=16, lora_dropout=0.0, target_modules=spec.target_modules)
    model = models.add_lora(base, lora)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert memory.adapter_parameters(BASE, spec) == trained


def test_the_tutorials_adapter_and_token_of_7b_cost_what_the_page_says() -> None:
    config = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 100_008,
    }
    base = memory.dimensions(config, parameters=7_296_000_000)
    spec = TrainSpec(dataset="ds", name="m")
    assert memory.adapter_parameters(base, spec) == 19_988_480
    one = memory.kept_bytes(base, spec, Load(tokens=1, labels=0, slots=1), "bf16")
    assert one == pytest.approx(7.6e6, rel=0.01)


def test_the_largest_pass_counts_and_the_parts_add_up() -> None:
    spec = TrainSpec(dataset="ds", name="m")
    small, large = Load(tokens=100, labels=10, slots=100), Load(tokens=900, labels=500, slots=900)
    found = memory.estimate(BASE, spec, loads=[small, large, small], evaluated=(), precision="bf16")
    alone = memory.estimate(BASE, spec, loads=[large], evaluated=[small], precision="bf16")
    assert found == alone
    assert found.weights_bytes == 2_000_000
    assert found.gradients_bytes == found.adapter_bytes
    assert found.total_bytes == found.tensors_bytes + found.reserve_bytes + found.context_bytes


def test_a_large_evaluation_counts_where_training_is_small() -> None:
    spec = TrainSpec(dataset="ds", name="m", target_modules=["q_proj"], lora_dropout=0.0)
    small, large = Load(tokens=1, labels=1, slots=1), Load(tokens=4096, labels=4000, slots=4096)
    bare = memory.estimate(BASE, spec, loads=[small], evaluated=(), precision="fp32")
    assert memory.estimate(BASE, spec, loads=[small], evaluated=[large], precision="fp32") != bare


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(DamagedCheckpoint, match="hidden_size"):
        memory.dimensions({"num_attention_heads": 2}, parameters=1)
