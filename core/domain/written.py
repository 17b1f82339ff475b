"""What users write: strict pydantic models that refuse unknown fields and name the nearest known one."""

import difflib
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("the character NUL (U+0000) can't be stored; leave it out")
    return text


MAX_PAIRS: Final = 16


def _few(pairs: Any) -> Any:  # noqa: ANN401  (pydantic hands over whatever was sent)
    """Count before each pair is judged: pydantic counts last, and has by then a finding for every wrong pair."""
    if isinstance(pairs, dict) and len(pairs) > MAX_PAIRS:
        raise PydanticCustomError(
            "too_long", "at most {limit} pairs, not {count}", {"limit": MAX_PAIRS, "count": len(pairs)}
        )
    return pairs


Storable = AfterValidator(_without_nul)
"""PostgreSQL stores every character of a text but one."""
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64), Storable],
        Annotated[str, StringConstraints(max_length=512), Storable],
    ],
    Field(max_length=MAX_PAIRS),
    BeforeValidator(_few),
]


class Written(BaseModel):
    """A value as a user writes it: frozen, no coercion, no unknown field, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, data: Any) -> Any:  # noqa: ANN401  (pydantic hands over whatever was sent)
        if not isinstance(data, dict):
            return data
        for name in data:
            if name in cls.model_fields:
                continue
            text = str(name)[:100]
            near = difflib.get_close_matches(text, cls.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(cls.model_fields)}"
            raise PydanticCustomError(
                "unknown_parameter", "unknown field {shown}; {hint}", {"shown": repr(text), "name": text, "hint": hint}
            )
        return data
