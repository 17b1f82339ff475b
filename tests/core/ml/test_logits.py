"""What an imported BlueLM computes, against the literal one on the original tensors.

Everything is computed in fp32. A checkpoint in fp32 is folded without any rounding, so its logits must be the oracle's.
One in bf16 is rounded once, in the rows of the embedding: those are counted in units in the last place.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from core.ml.convert import convert
from tests.support import checkpoints, oracle
from tests.support.checkpoints import Checkpoint

EMBEDDING = "model.embed_tokens.weight"
MAX_DIFFERENCE = 1e-5
MANY = 50


def imported(drawn: Checkpoint, folder: Path, dtype: torch.dtype) -> Path:
    source = drawn.write(folder / "source", dtype)
    base = convert(source, folder / "base", name="drawn", progress=lambda done, total: None, max_shard_bytes=100_000)
    assert base.record.rows == drawn.rows
    return base.path


def in_fp32(base: Path) -> LlamaForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert type(model) is LlamaForCausalLM
    return model.eval()


def padded(drawn: Checkpoint, side: str) -> tuple[Tensor, Tensor]:
    """Four rows of random ids of different lengths, and their mask; the last row reaches every embedding's end."""
    generator = torch.Generator().manual_seed(drawn.seed)
    ids_BT = torch.randint(0, drawn.rows, (4, 33), generator=generator)
    ids_BT[3, :3] = torch.tensor([drawn.rows - 1, 0, 3])
    mask_BT = torch.ones_like(ids_BT)
    for row, length in enumerate((5, 17, 32, 33)):
        padding = slice(0, 33 - length) if side == "left" else slice(length, 33)
        ids_BT[row, padding], mask_BT[row, padding] = 3, 0
    return ids_BT, mask_BT


@torch.inference_mode()
def difference(model: LlamaForCausalLM, reference: oracle.BlueLM, drawn: Checkpoint) -> float:
    """The largest difference of a logit at a token, with padding in front and with padding behind."""
    worst = 0.0
    for side in ("left", "right"):
        ids_BT, mask_BT = padded(drawn, side)
        expected = oracle.logits(reference, ids_BT, mask_BT)
        places = oracle.places(mask_BT)
        found = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=places).logits
        assert found.shape == expected.shape == (4, 33, drawn.rows)
        at_tokens = mask_BT.bool()
        worst = max(worst, float((found - expected)[at_tokens].abs().max()))
    return worst


def check_fp32(seed: int, folder: Path) -> float:
    """Import one draw in fp32; no step of it rounds, so nothing but the order of sums may differ."""
    drawn = checkpoints.draw(seed)
    base = imported(drawn, folder / f"{seed}-fp32", torch.float32)
    return difference(in_fp32(base), drawn.reference(drawn.tensors(torch.float32)), drawn)


def check_bf16(seed: int, folder: Path) -> tuple[int, float]:
    """Import one draw in bf16 and count units between its rows and the LayerNorm in fp64, rounded once.

    Returns:
        The most units of a row's value, and the share of values that are off at all.
    """
    drawn = checkpoints.draw(seed)
    rows_RH = rows_of(imported(drawn, folder / f"{seed}-bf16", torch.bfloat16))
    assert rows_RH.dtype == torch.bfloat16
    wide = {name: tensor.double() for name, tensor in drawn.tensors(torch.bfloat16).items()}
    reference = oracle.BlueLM(weights=wide, heads=drawn.shape.heads, eps=1e-6)
    exact_RH = oracle.embed(reference, torch.arange(drawn.rows)[None])[0]
    units_RH = rows_RH.view(torch.int16).int() - exact_RH.to(torch.bfloat16).view(torch.int16).int()
    # Row, mean and bias may cancel; there fp32 has fewer digits than bf16 has units, and only the distance says much.
    tiny_RH = exact_RH.abs() < 1e-3
    assert not bool(((rows_RH.double() - exact_RH).abs() > 1e-5)[tiny_RH].any())
    units_RH[tiny_RH] = 0
    return int(units_RH.abs().max()), float((units_RH != 0).double().mean())


def rows_of(base: Path) -> Tensor:
    """The folded rows as they lie on disk."""
    tensors: dict[str, Tensor] = {}
    for file in base.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors[EMBEDDING]


def test_logits_of_fifty_random_checkpoints_are_the_oracles(tmp_path: Path) -> None:
    assert {checkpoints.draw(seed).container for seed in range(MANY)} == set(checkpoints.CONTAINERS)
    found = {seed: check_fp32(seed, tmp_path) for seed in range(MANY)}
    worst = max(found, key=found.__getitem__)
    print(f"largest difference of a logit {found[worst]:.2e}, seed {worst}")
    assert found[worst] <= MAX_DIFFERENCE, f"seed {worst}"


@pytest.mark.parametrize(
    "seeds", [pytest.param(range(6), id="few"), pytest.param(range(6, MANY), id="many", marks=pytest.mark.slow)]
)
def test_bf16_rows_are_the_oracles_within_one_unit(tmp_path: Path, seeds: range) -> None:
    found = {seed: check_bf16(seed, tmp_path) for seed in seeds}
    print(f"units, and share of values that are off: {found}")
    assert all(units <= 1 and share <= 1e-3 for units, share in found.values()), found


def test_the_comparison_sees_another_eps_and_another_rotation(tmp_path: Path) -> None:
    drawn = checkpoints.draw(0)
    model = in_fp32(imported(drawn, tmp_path, torch.float32))
    weights = drawn.tensors(torch.float32)
    swapped = weights | {"model.embed_layer_norm.bias": weights["model.embed_layer_norm.bias"] + 1e-3}
    assert difference(model, drawn.reference(swapped), drawn) > 10 * MAX_DIFFERENCE
    other_eps = oracle.BlueLM(weights=weights, heads=drawn.shape.heads, eps=1e-5)
    assert difference(model, other_eps, drawn) > MAX_DIFFERENCE
