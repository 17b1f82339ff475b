"""How much memory a training takes, term by term: the formula of docs/plan.md, and the only place that has it.

Derived from what our trainer keeps: a frozen base, fp32 adapters with fp32 Adam, one flattened micro-batch without
checkpointing, logits at labels alone. Knows no torch; `python -m bench M1` holds it against measured peaks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from core.domain.checkpoints import DamagedCheckpoint
from core.domain.training import TrainSpec

Precision = Literal["bf16", "fp32"]
PRECISIONS: Final[tuple[Precision, ...]] = ("bf16", "fp32")
FLOAT: Final = 4
BYTES: Final[Mapping[Precision, int]] = {"bf16": 2, "fp32": 4}
"""Of a weight of the base, and of an activation: bf16 under autocast on a GPU, fp32 on a CPU."""
ADAM_BYTES: Final = 8
"""Two fp32 moments of each adapter weight."""
CONTEXT_BYTES: Final[Mapping[Precision, int]] = {"bf16": 750 * 2**20, "fp32": 512 * 2**20}
"""What a process holds besides tensors: CUDA's context and kernels (750 MiB on an H100); on a CPU the libraries."""
RESERVE_SHARE: Final[Mapping[Precision, float]] = {"bf16": 0.1, "fp32": 0.0}
"""What CUDA's allocator keeps beyond the tensors, by activations (measured: 0.09 to 0.19).

Steps differ in tokens and labels, so blocks freed by one are of the wrong size for the next and are kept beside it,
until memory runs short.
"""

_READS: Final = {
    "q_proj": "first norm",
    "k_proj": "first norm",
    "v_proj": "first norm",
    "gate_proj": "second norm",
    "up_proj": "second norm",
    "down_proj": "silu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a Llama-layout base; `parameters` counts all weights, embeddings included."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int

    def inputs(self, module: str) -> int:
        """Width of what a linear layer reads."""
        return {"o_proj": self.heads * self.head_dim, "down_proj": self.intermediate}.get(module, self.hidden)

    def outputs(self, module: str) -> int:
        """Width of what it writes."""
        widths = {
            "q_proj": self.heads * self.head_dim,
            "k_proj": self.kv_heads * self.head_dim,
            "v_proj": self.kv_heads * self.head_dim,
            "gate_proj": self.intermediate,
            "up_proj": self.intermediate,
        }
        return widths.get(module, self.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One micro-batch: tokens in it, how many of them are learnt, and the places its samples take side by side.

    `slots` is samples times the longest one: attention on a CPU lays them out so; a GPU's kernel does not.
    """

    tokens: int
    labels: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes at the highest point of a training; `total_bytes` is their sum.

    `activations_bytes` has all that lives within one pass: what backward needs, the logits, and copies under way;
    `reserve_bytes` what the allocator keeps for itself.
    """

    precision: Precision
    weights_bytes: int
    adapter_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    reserve_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        """What the process takes of the device."""
        return self.tensors_bytes + self.reserve_bytes + self.context_bytes

    @property
    def tensors_bytes(self) -> int:
        """What torch's allocator has handed out."""
        return (
            self.weights_bytes
            + self.adapter_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
        )


def estimate(
    base: Dimensions, spec: TrainSpec, *, loads: Iterable[Load], evaluated: Iterable[Load], precision: Precision
) -> Memory:
    """Add up what a training holds at its highest point.

    Args:
        base: Sizes of the base.
        spec: `r`, `lora_dropout` and `target_modules` are read.
        loads: Every micro-batch that is trained on.
        evaluated: Every micro-batch of an evaluation, if any.
        precision: `bf16` for a GPU, `fp32` for a CPU.
    """
    adapter = adapter_parameters(base, spec)
    # Autocast keeps a bf16 copy of every adapter weight while a pass lasts.
    copies = adapter * BYTES["bf16"] if precision == "bf16" else 0
    peaks = [kept_bytes(base, spec, load, precision) + copies + _backward(base, load) for load in loads]
    peaks += [copies + _forward(base, load, precision) for load in evaluated]
    activations = max(peaks, default=0)
    return Memory(
        precision=precision,
        weights_bytes=base.parameters * BYTES[precision],
        adapter_bytes=adapter * FLOAT,
        gradients_bytes=adapter * FLOAT,
        optimizer_bytes=adapter * ADAM_BYTES,
        activations_bytes=activations,
        reserve_bytes=round(activations * RESERVE_SHARE[precision]),
        context_bytes=CONTEXT_BYTES[precision],
    )


def dimensions(config: Mapping[str, Any], *, parameters: int) -> Dimensions:
    """Read the sizes of a base from its config.json, which our importer wrote in Llama's terms.

    Raises:
        DamagedCheckpoint: A size is missing.
    """
    try:
        heads = int(config["num_attention_heads"])
        return Dimensions(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            parameters=parameters,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DamagedCheckpoint(f"config.json lacks a size of the model ({error}).") from error


def adapter_parameters(base: Dimensions, spec: TrainSpec) -> int:
    """Count the weights of a LoRA: r times the width in and out of every target, in every layer."""
    widths = sum(base.inputs(module) + base.outputs(module) for module in spec.target_modules)
    return base.layers * spec.r * widths


def kept_bytes(base: Dimensions, spec: TrainSpec, load: Load, precision: Precision) -> int:
    """What autograd keeps of one micro-batch from forward to backward, logits excepted.

    The first layer's first norm keeps nothing, as embeddings are not trained; the norm behind the last layer makes up
    for it.
    """
    inputs = _inputs(base, spec, precision) + len(spec.target_modules) * BYTES[precision] * spec.r
    token = 2 * _norm(base) + _swiglu(base, precision) + inputs
    attended = load.tokens if precision == "bf16" else load.slots
    return base.layers * (load.tokens * token + attended * _attention(base, precision))


def _norm(base: Dimensions) -> int:
    """RMSNorm keeps its input in fp32, and the root of its mean square."""
    return FLOAT * base.hidden + FLOAT


def _attention(base: Dimensions, precision: Precision) -> int:
    """Queries, keys, values and the answer of the kernel, and its log-sum-exp in fp32 for each head."""
    widths = 2 * base.heads * base.head_dim + 2 * base.kv_heads * base.head_dim
    return BYTES[precision] * widths + FLOAT * base.heads


def _swiglu(base: Dimensions, precision: Precision) -> int:
    """What goes into silu, what comes out, and what that is multiplied with."""
    return 3 * BYTES[precision] * base.intermediate


def _inputs(base: Dimensions, spec: TrainSpec, precision: Precision) -> int:
    """What each A reads, kept for its gradient, and the mask of the dropout before it.

    peft casts the input to fp32 and autocast back to bf16, target by target, so every target has a copy of its own; a
    mask takes a byte. Without autocast a CPU keeps the dropped copy and the noise, both fp32; without dropout targets
    that read the same tensor share it, and o_proj reads what attention keeps anyway.
    """
    widths = [base.inputs(module) for module in spec.target_modules]
    if precision == "bf16":
        return sum(widths) * (BYTES["bf16"] + bool(spec.lora_dropout))
    if spec.lora_dropout:
        return sum(widths) * 2 * FLOAT
    shared = {_READS[module]: base.inputs(module) for module in spec.target_modules if module != "o_proj"}
    return sum(shared.values()) * FLOAT


def _backward(base: Dimensions, load: Load) -> int:
    """The highest of what a backward pass adds for a moment.

    At the loss: log-probabilities, their gradient and the logits', all fp32. In a layer: the gradient of the widest
    LoRA input, before and after dropout, in fp32.
    """
    return max(3 * FLOAT * load.labels * base.vocabulary, 2 * FLOAT * load.tokens * base.intermediate)


def _forward(base: Dimensions, load: Load, precision: Precision) -> int:
    """The highest of an evaluation, which keeps nothing: logits and log-probabilities, or one SwiGLU."""
    logits = (BYTES[precision] + 2 * FLOAT) * load.labels * base.vocabulary
    return max(logits, (3 * BYTES[precision] + FLOAT) * load.tokens * base.intermediate)
