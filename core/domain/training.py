"""The job spec, and the events by which training speaks.

One pydantic class is body, argument and JSON column. Names are peft's and transformers'.
Knows no torch: what can be checked here is checked before a GPU is touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from core.domain import adapters
from core.domain.written import Metadata, Storable, Written
from core.errors import Finding, Invalid

MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of every BlueLM decoder layer, in the model's order."""

# What other models call their layers, and which of ours do that work.
FOREIGN_MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "w1": ("up_proj",),
    "w2": ("gate_proj",),
    "W_pack": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_proj", "up_proj"),
    "dense_4h_to_h": ("down_proj",),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}

Positive = Annotated[int, Field(ge=1)]


class TrainSpec(Written):
    """What one LoRA training shall do. Defaults are the tutorial's; `preset` may fill others.

    Source of the defaults: datawhalechina/self-llm, models/BlueLM/04, the notebook (not its .md copy).
    """

    spec_version: Literal[1] = 1
    method: Literal["sft"] = "sft"
    preset: Literal["tutorial", "chat-1"] = "tutorial"

    dataset: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: str
    base_model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    system_prompt: Annotated[str, StringConstraints(max_length=32_768), Storable] | None = None

    deduplicate: bool = False
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    overlong: Literal["error", "drop", "truncate"] = "error"
    packing: Literal["exact", "packed"] = "exact"
    pack_length: Annotated[int, Field(ge=8, le=1_048_576)] = 2048
    base_precision: Literal["bf16", "fp8"] = "bf16"

    r: Annotated[int, Field(ge=1, le=1024)] = 8
    lora_alpha: Annotated[float, Field(gt=0, le=65_536)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: Annotated[list[str], Field(min_length=1, max_length=len(MODULES))] = Field(
        default_factory=lambda: list(MODULES)
    )
    use_rslora: bool = False

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 2
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    logging_steps: Positive = 10
    save_steps: Positive = 100
    validation_ratio: Annotated[float, Field(gt=0, le=0.5)] | None = None
    validation_dataset: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    eval_steps: Positive | None = None
    early_stopping_patience: Positive | None = None
    load_best_model_at_end: bool = False

    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    metadata: Metadata = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42

    @field_validator("name")
    @classmethod
    def _name_is_an_adapter_name(cls, name: str) -> str:
        adapters.check_name(name)
        return name

    @field_validator("target_modules")
    @classmethod
    def _modules_are_bluelms(cls, names: list[str]) -> list[str]:
        unknown = [name for name in names if name not in MODULES]
        if unknown:
            raise ValueError(_module_advice(unknown))
        if len(set(names)) != len(names):
            raise ValueError("each module may be named once")
        return names


# What a preset gives to fields that were not sent. A preset never changes once published.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tutorial": {},
    "chat-1": {
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "lora_dropout": 0.05,
        "validation_ratio": 0.05,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this deployment and the chosen base allow.

    `context_length` counts tokens, prompt and answer together.
    """

    base_model: str
    context_length: int
    max_lora_rank: int


def resolve(spec: TrainSpec, *, dataset: str, validation_dataset: str | None, limits: Limits) -> TrainSpec:
    """Fill everything that was left open, and check what no single field can.

    Args:
        spec: As sent; only fields the user set win over the preset.
        dataset: The id that `spec.dataset` names now, so that a later version changes nothing.
        validation_dataset: Likewise.
        limits: Of the base and the deployment.

    Raises:
        InvalidSpec: Fields contradict each other or the limits.
    """
    sent = spec.model_dump(exclude_unset=True)
    preset = {key: value for key, value in PRESETS[spec.preset].items() if not _settled(key, sent)}
    filled = TrainSpec.model_validate(
        preset
        | sent
        | {
            "dataset": dataset,
            "validation_dataset": validation_dataset,
            "base_model": limits.base_model,
            "max_length": sent.get("max_length") or limits.context_length,
        }
    )
    findings = tuple(_contradictions(filled, limits))
    if findings:
        raise InvalidSpec(findings[0].message, param=findings[0].field, findings=findings)
    return filled


def _settled(key: str, sent: Mapping[str, Any]) -> bool:
    """A validation set of the user's own leaves no room for the preset's split, nor a constant rate for its warm-up."""
    return (
        key in sent
        or (key == "validation_ratio" and bool(sent.get("validation_dataset")))
        or (key == "warmup_ratio" and sent.get("lr_scheduler_type") == "constant")
    )


def _contradictions(spec: TrainSpec, limits: Limits) -> list[Finding]:
    found: list[Finding] = []

    def say(field: str, code: str, message: str, hint: str) -> None:
        found.append(Finding(field=field, code=code, message=message, hint=hint))

    validates = spec.validation_ratio is not None or spec.validation_dataset is not None
    if spec.validation_ratio is not None and spec.validation_dataset is not None:
        say(
            "validation_ratio",
            "contradiction",
            "validation_ratio and validation_dataset exclude each other.",
            "Send one of the two.",
        )
    for field in ("early_stopping_patience", "load_best_model_at_end", "eval_steps"):
        if getattr(spec, field) and not validates:
            say(
                field,
                "needs_validation",
                f"{field} needs a validation set.",
                "Send validation_ratio or validation_dataset too.",
            )
    if spec.warmup_ratio and spec.lr_scheduler_type == "constant":
        say(
            "warmup_ratio",
            "contradiction",
            "A constant learning rate has no warm-up.",
            "Send lr_scheduler_type 'constant_with_warmup', or leave warmup_ratio out.",
        )
    if spec.r > limits.max_lora_rank:
        say(
            "r",
            "out_of_range",
            f"r is {spec.r}; engines here load adapters up to r = {limits.max_lora_rank}.",
            f"Send r of at most {limits.max_lora_rank}.",
        )
    if spec.max_length is not None and spec.max_length > limits.context_length:
        say(
            "max_length",
            "out_of_range",
            f"max_length is {spec.max_length}; the base reads {limits.context_length} tokens.",
            f"Send at most {limits.context_length}.",
        )
    if spec.packing == "packed" and spec.max_length is not None and spec.pack_length < spec.max_length:
        say(
            "pack_length",
            "out_of_range",
            f"pack_length {spec.pack_length} is below max_length {spec.max_length}, so a row may not fit.",
            "Raise pack_length or lower max_length.",
        )
    if spec.base_precision == "fp8":
        say(
            "base_precision",
            "unsupported_value",
            "No trainer here reads an fp8 base yet.",
            "Send base_precision 'bf16'.",
        )
    return found


def _module_advice(unknown: list[str]) -> str:
    use = [f"for {name} use {', '.join(FOREIGN_MODULES[name])}" for name in unknown if name in FOREIGN_MODULES]
    shown = ", ".join(repr(name[:60]) for name in unknown)
    return f"BlueLM has no module {shown}; its modules are {', '.join(MODULES)}" + (
        "; " + "; ".join(use) if use else ""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One log line of training. Rates count useful (unpadded) tokens; `trained_tokens` is since the job's start."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    trained_tokens: int
    eta_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One evaluation on the validation rows."""

    step: int
    epoch: float
    eval_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed:
    """A checkpoint folder lies complete and synced under `path`, with its manifest."""

    step: int
    path: str
    manifest_sha256: str
    bytes: int


TrainingEvent = Progress | Evaluated | Checkpointed


class InvalidSpec(Invalid):
    """Fields of a spec contradict each other, the base or the deployment."""

    code = "invalid_spec"
