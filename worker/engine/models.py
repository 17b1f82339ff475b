"""The base and the adapters on it, as one peft model that answers batches of mixed adapters.

Belongs to the thread that owns the model. Knows no names that users see and no order of use: keys are ours, since peft
makes them names of modules.

Axes: B rows, T new tokens of a row, L tokens in the cache with the new ones, V vocabulary.
"""

from collections.abc import Sequence
from typing import Final

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import Cache, PreTrainedModel

from core.domain.linears import Linear
from core.domain.training import MODULES
from worker.engine.weights import Weights

BASE: Final = "__base__"
"""Stands for a row without adapter; peft's name for it."""


class AdaptedModel:
    """A base in eval mode, and LoRA adapters put on it and taken off while it serves."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._base = base
        self._adapted: PeftModel | None = None
        self._keys: set[str] = set()
        self._row_keys: list[str] = []
        self._hooked: set[torch.nn.Module] = set()
        self.vocabulary: int = base.get_input_embeddings().weight.shape[0]
        self.device: torch.device = base.device
        self.linears = {
            path: Linear(out_features=module.out_features, in_features=module.in_features)
            for path, module in base.named_modules()
            if isinstance(module, torch.nn.Linear) and path.rpartition(".")[2] in MODULES
        }

    def put(self, key: str, weights: Weights) -> None:
        """Put one more adapter on the base, in the base's precision. The base's own weights are not touched."""
        adapted = self._prepared(key, weights)
        tensors = {name: tensor.to(self.device, self._base.dtype) for name, tensor in weights.tensors.items()}
        set_peft_model_state_dict(adapted, tensors, adapter_name=key, low_cpu_mem_usage=True)
        adapted.requires_grad_(False).eval()
        for module in adapted.modules():
            if isinstance(module, LoraLayer) and module not in self._hooked:
                module.register_forward_pre_hook(self._tell_rows, with_kwargs=True)
                self._hooked.add(module)
        self._keys.add(key)

    def remove(self, key: str) -> None:
        """Take an adapter off again."""
        self._keys.remove(key)
        if self._adapted is not None:
            self._adapted.delete_adapter(key)

    def forward(
        self, ids_BT: Tensor, *, positions_BT: Tensor, mask_BL: Tensor, cache: Cache, keys: Sequence[str]
    ) -> Tensor:
        """Run the new tokens through the model, append to `cache`, and return the last token's `logits_BV`.

        Args:
            ids_BT: New tokens.
            positions_BT: Where they stand in their rows.
            mask_BL: False where a row's cache is padding.
            cache: Keys and values of the tokens before.
            keys: Each row's adapter, or `BASE`.

        Raises:
            KeyError: An adapter is not on the base; peft itself would answer as the base.
        """
        if unknown := set(keys) - self._keys - {BASE}:
            raise KeyError(f"no adapter is on the base under {sorted(unknown)}")
        self._row_keys = list(keys)
        with torch.inference_mode():
            output = self._base(
                input_ids=ids_BT,
                position_ids=positions_BT,
                attention_mask=mask_BL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def _prepared(self, key: str, weights: Weights) -> PeftModel:
        """Make room for an adapter in every layer that it touches."""
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=weights.config.r,
            lora_alpha=weights.config.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(weights.config.target_modules),
            use_rslora=weights.config.use_rslora,
            bias="none",
            inference_mode=True,
        )
        if self._adapted is None:
            self._adapted = PeftModel(
                self._base, config, adapter_name=key, autocast_adapter_dtype=False, low_cpu_mem_usage=True
            )
            # None is active by itself: every row names its own, and the active one can't be deleted quietly.
            self._adapted.base_model.set_adapter([])
        else:
            self._adapted.add_adapter(key, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
        return self._adapted

    def _tell_rows(
        self, _module: torch.nn.Module, arguments: tuple[object, ...], named: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Tell a LoRA layer which adapter each row has.

        `PeftModel.forward(adapter_names=)` would do it too, but hooks every layer again in each pass, and drops the
        names without a word while no adapter is active (peft 0.21.2).
        """
        return arguments, {**named, "adapter_names": self._row_keys}
