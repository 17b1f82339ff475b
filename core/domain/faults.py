"""Faults of a data set's file, as the parsing rooms raise them: of one row, or of the whole file.

Both are caught inside core.domain and become findings; nobody outside sees them.
"""

from core.errors import Finding


class BadRow(Exception):
    """One row can't be used; the rows after it still can."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*(finding.message for finding in findings))
        self.findings = findings


class BadFile(Exception):
    """Nothing after this point can be read as rows."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def shown(text: str, *, at_most: int = 60) -> str:
    """Quote a piece of a user's text for a message: escaped and cut."""
    return ascii(text[:at_most])[1:-1] if not text.isprintable() else text[:at_most]
