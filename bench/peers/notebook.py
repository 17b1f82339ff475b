"""The tutorial's recipe as its notebook runs it: transformers.Trainer and peft, with nothing of ours.

Padding to the longest of 8, accumulation 2, gradient checkpointing with input gradients, LoRA r 8, alpha 32, dropout
0.1 on all seven projections, learning rate 1e-4. Source: datawhalechina/self-llm, models/BlueLM/04 (the notebook).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bench.data import Sample

PAD: Final = "<pad>"
SEVEN: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def trainer(
    base: PreTrainedModel,
    samples: Sequence[Sample],
    *,
    folder: Path,
    device: Literal["cpu", "cuda"],
    seed: int,
    max_steps: int,
    callbacks: Sequence[TrainerCallback] = (),
    dropout: float = 0.1,
    batch: int = 8,
    accumulation: int = 2,
    checkpointing: bool = True,
    logging_steps: int = 10,
) -> Trainer:
    """Make the notebook's Trainer; the defaults are the notebook's, the base's precision is the caller's."""
    set_seed(seed)
    if checkpointing:
        base.enable_input_require_grads()
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=list(SEVEN),
        inference_mode=False,
        r=8,
        lora_alpha=32,
        lora_dropout=dropout,
    )
    model = get_peft_model(base, lora)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-4,
        num_train_epochs=3,
        max_steps=max_steps,
        logging_steps=logging_steps,
        save_strategy="no",
        activation_checkpointing=checkpointing,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
    )
    return Trainer(
        model=model,
        args=args,
        train_dataset=[{"input_ids": s.input_ids, "labels": s.labels} for s in samples],
        data_collator=DataCollatorForSeq2Seq(tokenizer=_pads(), padding=True),
        callbacks=list(callbacks),
    )


def _pads() -> PreTrainedTokenizerFast:
    """A tokenizer that only pads: the collator asks it for nothing else."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({PAD: 3}, unk_token=PAD)))
    tokenizer.pad_token, tokenizer.padding_side = PAD, "right"
    return tokenizer
