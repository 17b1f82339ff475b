"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from cli.screen import Refused

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Data directory; default BLUELORA_DATA_DIR or ./bluelora-data.", show_default=False
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, max=100, help="How many rows.")]
AfterOption = Annotated[str | None, typer.Option(help="Start after this id (the last one of the page before).")]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", help="key=value; may be given up to 16 times.", show_default=False)
]


def pairs(given: list[str] | None) -> dict[str, str]:
    """Read `key=value` options.

    Raises:
        Refused: One has no `=`.
    """
    found = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise Refused(f"--metadata takes key=value, not {text!r}.")
        found[key] = value
    return found
