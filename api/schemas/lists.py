"""What every noun on the wire shares: how it is read from a value, and lists of it."""

from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from core.domain.pages import Page


class Out(BaseModel):
    """Something shown: its fields are read from the value's attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        """Show a value."""
        return cls.model_validate(value)


Shown = TypeVar("Shown", bound=Out)
Kept = TypeVar("Kept")


class ListOut(BaseModel, Generic[Shown]):
    """One page, newest first. Ask for the next with `after` = the id of the last item, while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Shown]
    has_more: bool


def listed(kind: type[Shown], page: Page[Kept]) -> ListOut[Shown]:
    """Show every item of a page."""
    return ListOut[Shown](data=[kind.of(item) for item in page.data], has_more=page.has_more)
