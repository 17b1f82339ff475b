"""The tree of errors. Kinds live here, concrete errors beside their noun.

    Problem
    ├── NotFound          no such thing, or not yours
    ├── Conflict          the thing is in a state that forbids it
    ├── Invalid           understood, but not acceptable; carries findings
    ├── Malformed         could not be parsed at all
    ├── Unauthenticated   no key, or not one of ours
    ├── Forbidden         a key of another role
    ├── TooLarge          over a limit on bytes
    ├── Unsupported       a media type or feature that is not served here
    ├── StorageFull       no room for the bytes
    ├── Overloaded        a queue is full; come back later
    └── Unavailable       a part we need does not answer

Knows no HTTP status: workers and the CLI raise these too (api/problems.py has the table).
"""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with what a user sent.

    `line` counts from 1 in the user's file; `field` is a dotted path; `hint` says what would be right.
    """

    code: str
    message: str
    line: int | None = None
    field: str | None = None
    hint: str | None = None


class Problem(Exception):
    """Something a user can be told: a stable code, a sentence, and findings.

    Args:
        detail: One or two sentences: what was wrong, where, and what would be right. No path, secret or stack.
        param: The field or parameter at fault, as a dotted path.
        findings: The single faults, when there can be several.
        retry_after_s: Seconds after which the same call may succeed; None where a retry cannot help.
    """

    code: ClassVar[str] = "problem"
    title: ClassVar[str] = "Problem"

    def __init__(
        self,
        detail: str,
        *,
        param: str | None = None,
        findings: tuple[Finding, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.param = param
        self.findings = findings
        self.retry_after_s = retry_after_s

    @override
    def __str__(self) -> str:
        return self.detail


class NotFound(Problem):
    """No such thing, or it belongs to someone else; the two look the same from outside."""

    code = "not_found"
    title = "Not found"


class Conflict(Problem):
    """The thing is there, but its state forbids the request."""

    code = "conflict"
    title = "Conflict"


class Invalid(Problem):
    """The request was understood and can't be accepted."""

    code = "invalid"
    title = "Invalid request"


class Malformed(Problem):
    """The request could not be parsed."""

    code = "malformed"
    title = "Malformed request"


class Unauthenticated(Problem):
    """No key, or one that isn't ours."""

    code = "invalid_api_key"
    title = "Not authenticated"


class Forbidden(Problem):
    """The key's role does not allow this."""

    code = "forbidden"
    title = "Forbidden"


class TooLarge(Problem):
    """More bytes than the limit."""

    code = "too_large"
    title = "Too large"


class Unsupported(Problem):
    """A media type or a feature that is not served here."""

    code = "unsupported"
    title = "Unsupported"


class StorageFull(Problem):
    """No room for the bytes."""

    code = "storage_full"
    title = "Storage full"


class Overloaded(Problem):
    """A queue or quota is full."""

    code = "overloaded"
    title = "Overloaded"


class Unavailable(Problem):
    """A part that the request needs does not answer."""

    code = "unavailable"
    title = "Unavailable"
