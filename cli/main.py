"""The `bluelora` command: assembles the commands and turns errors into exit codes.

Exit codes: 0 ok, 1 job failed, 2 usage, 3 refused, 4 unreachable.
"""

import sys
from collections.abc import Sequence

import typer
from pydantic import ValidationError

from cli import adapters, bases, chat, datasets, demo, doctor, engine, jobs, keys, up
from cli.screen import REFUSED, Refused, screen
from core.errors import Problem
from core.settings import Settings

app = typer.Typer(
    name="bluelora",
    help="Fine-tune BlueLM-7B-Chat with LoRA, and serve the result.",
    epilog="--json anywhere prints machine-readable output. BLUELORA_URL and BLUELORA_API_KEY name a remote service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.command)
app.command("demo")(demo.command)
app.command("import")(bases.import_command)
app.command("doctor")(doctor.command)
app.command("generate")(chat.generate)
app.command("chat")(chat.chat)
for module in (bases, datasets, jobs, adapters, keys, engine):
    app.add_typer(module.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--json" in given:
        given.remove("--json")
        screen.use_json()
    try:
        app(given, prog_name="bluelora")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    except Refused as error:
        screen.refuse(error)
        return error.exit_code
    except Problem as problem:
        screen.refuse(Refused(problem.detail, problem={"code": problem.code, "detail": problem.detail}))
        return REFUSED
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        screen.refuse(Refused(_misconfigured(error)))
        return REFUSED
    except OSError as error:
        screen.refuse(Refused(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"))
        return REFUSED
    return 0


def _misconfigured(error: ValidationError) -> str:
    # Never str(error): it repeats what was set, and that may be a password.
    faults = error.errors(include_input=False, include_url=False)
    where = (f"BLUELORA_{str(fault['loc'][0]).upper()}: " if fault["loc"] else "" for fault in faults)
    return "; ".join(variable + fault["msg"] for variable, fault in zip(where, faults, strict=True))
