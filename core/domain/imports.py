"""What a user says of an adapter that was trained elsewhere."""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from core.domain import adapters
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
