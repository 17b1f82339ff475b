"""`bluelora keys`: create, list, revoke."""

from typing import Annotated

import typer

from cli import places, remote
from cli.options import AfterOption, DataDirOption, LimitOption
from cli.screen import screen
from core.domain.keys import Role

app = typer.Typer(name="keys", help="API keys: create, list, revoke.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.MEMBER,
    project: Annotated[str | None, typer.Option(help="Project; default this key's own.", show_default=False)] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key; its secret is shown this once."""
    body = {"name": name, "role": role.value} | ({"project": project} if project else {})
    screen.thing(remote.service(places.chosen(data_dir)).post("/keys", body))


@app.command("list")
def list_(limit: LimitOption = 20, after: AfterOption = None, data_dir: DataDirOption = None) -> None:
    """List the project's keys, newest first, without secrets."""
    answer = remote.service(places.chosen(data_dir)).get("/keys", limit=limit, after=after)
    screen.rows(
        answer["data"], ("id", "name", "role", "hint", "created_at", "last_used_at", "revoked_at"), answer=answer
    )


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="key_…")], data_dir: DataDirOption = None) -> None:
    """Revoke a key; it stops working within 5 seconds."""
    remote.service(places.chosen(data_dir)).delete(f"/keys/{key}")
    screen.say(f"Revoked {key}.")
