"""A data set counted in the tokens of one base, as values."""

from dataclasses import dataclass, field

from core.domain.datasets import MAX_LINES, Lengths


@dataclass(slots=True, kw_only=True)
class Lines:
    """Rows of one kind: how many, and the lines of the first ones."""

    rows: int = 0
    first: list[int] = field(default_factory=list)

    def note(self, line: int) -> None:
        """Count one more."""
        self.rows += 1
        if self.rows <= MAX_LINES:
            self.first.append(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """All rows in tokens, control tokens included; `trained` are those that are learnt.

    `over_context` rows are longer than the base's context, `unfit` ones break the order of roles or have no answer to
    learn, and count nothing.
    """

    context_length: int
    total: int
    trained: int
    longest_row: int
    lengths: Lengths
    over_context: Lines
    unfit: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a counting process has to say; nothing was counted where the base can't render conversations."""

    counted: Counted | None
