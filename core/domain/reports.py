"""What an inspection has to say, put together from findings; needs no reader, so every process may write one."""

from core.domain.datasets import DatasetFinding, Inspection, Summary
from core.errors import Finding


def error(finding: Finding) -> DatasetFinding:
    """List one fault."""
    return DatasetFinding(
        severity="error",
        line=finding.line,
        field=finding.field,
        code=finding.code,
        message=finding.message,
        hint=finding.hint,
        lines=() if finding.line is None else (finding.line,),
    )


def refused(finding: Finding) -> Inspection:
    """Report on a file that could not be read at all."""
    nothing = Summary(
        format="unknown",
        container="unknown",
        rows=0,
        turns=0,
        prompt_characters=0,
        answer_characters=0,
        longest_row_characters=0,
        duplicates=0,
        columns=(),
        errors=1,
    )
    return Inspection(summary=nothing, findings=(error(finding),))
