"""An adapter that was trained elsewhere: what its owner says of it, what it must fit, and what we keep of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from core.domain import adapters, loras, loraweights
from core.domain.adapters import AdapterFile
from core.domain.bases import Base
from core.domain.linears import LlamaSizes, linears
from core.domain.loras import LoraConfig
from core.domain.written import Metadata, Storable, Written


class AdapterImport(Written):
    """The fields beside an adapter's two files. `template_hash`, if it is known, must be the base's."""

    name: str
    base: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    system_prompt: Annotated[str, StringConstraints(max_length=32_768), Storable] | None = None
    template_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    metadata: Metadata = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name_is_an_adapter_name(cls, name: str) -> str:
        adapters.check_name(name)
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An adapter whose config is checked and whose weights are to come. `source_sha256` is the config's as it came."""

    said: AdapterImport
    base: Base
    sizes: LlamaSizes
    config: LoraConfig
    source_sha256: str

    @property
    def largest_bytes(self) -> int:
        """What the weights file can have at most."""
        return loraweights.largest_file(self.config, linears(self.sizes))

    @property
    def kept_config(self) -> bytes:
        """The adapter_config.json that is kept."""
        return loras.canonical(self.config, base_name=self.base.name)

    def files(self, *, weights_sha256: str, weights_bytes: int) -> tuple[AdapterFile, AdapterFile]:
        """Name the two files that are kept: the config in our words, the weights as they came."""
        config = self.kept_config
        return (
            AdapterFile(name=loras.CONFIG, sha256=hashlib.sha256(config).hexdigest(), bytes=len(config)),
            AdapterFile(name=loras.WEIGHTS, sha256=weights_sha256, bytes=weights_bytes),
        )

    def facts(self, *, weights_sha256: str, imported_at: int, versions: Mapping[str, str]) -> Mapping[str, Any]:
        """Say what the manifest shall; what only its trainer knows is null."""
        return {
            "kind": "imported",
            "base": self.base.name,
            "base_fingerprint": self.base.fingerprint,
            "template_hash": self.base.template_hash,
            "system_prompt": self.said.system_prompt,
            "r": self.config.r,
            "lora_alpha": self.config.lora_alpha,
            "target_modules": sorted(self.config.target_modules),
            "use_rslora": self.config.use_rslora,
            "source": {
                loras.CONFIG: self.source_sha256,
                loras.WEIGHTS: weights_sha256,
                "peft_version": self.config.peft_version,
            },
            "imported_at": imported_at,
            "versions": dict(versions),
        } | dict.fromkeys(("job", "attempt", "step", "spec", "dataset_sha256", "metrics"))
