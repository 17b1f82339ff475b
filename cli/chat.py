"""`bluelora generate` and `bluelora chat`: ask a base, or a base with an adapter."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli import places, remote
from cli.options import DataDirOption
from cli.screen import Refused, screen

AdapterOption = Annotated[
    str | None, typer.Option(help="Adapter reference; without one the base alone answers.", show_default=False)
]
TokensOption = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
TemperatureOption = Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")]
SystemOption = Annotated[
    str | None,
    typer.Option(help="System text; default the adapter's own, an empty text means none.", show_default=False),
]


def generate(
    *,
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    adapter: AdapterOption = None,
    system: SystemOption = None,
    max_tokens: TokensOption = 512,
    temperature: TemperatureOption = 0.0,
    data_dir: DataDirOption = None,
) -> None:
    """Print one answer."""
    messages = _messages([{"role": "user", "content": prompt}], system)
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": temperature}
    answer = remote.service(places.chosen(data_dir)).post("/generate", body | _adapter(adapter))
    if screen.json:
        screen.document(answer)
    else:
        screen.console.print(answer["choices"][0]["message"]["content"], markup=False, soft_wrap=True)


def chat(
    adapter: AdapterOption = None,
    system: SystemOption = None,
    max_tokens: TokensOption = 512,
    temperature: TemperatureOption = 0.0,
    data_dir: DataDirOption = None,
) -> None:
    """Talk in the terminal; an empty line or Ctrl-D ends it."""
    if screen.json:
        raise Refused("chat is for people; programs call generate.")
    service = remote.service(places.chosen(data_dir))
    turns: list[dict[str, str]] = []
    while True:
        try:
            text = screen.console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not text:
            return
        turns.append({"role": "user", "content": text})
        body = {"messages": _messages(turns, system), "max_tokens": max_tokens, "temperature": temperature}
        turns.append({"role": "assistant", "content": _print_stream(service, body | _adapter(adapter))})


def _print_stream(service: remote.Service, body: Mapping[str, Any]) -> str:
    answer = ""
    for chunk in service.stream("/generate", body):
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") or ""
            answer += piece
            screen.console.print(piece, end="", markup=False, soft_wrap=True)
    screen.console.print()
    return answer


def _messages(turns: list[dict[str, str]], system: str | None) -> list[dict[str, str]]:
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _adapter(reference: str | None) -> dict[str, str]:
    return {"adapter": reference} if reference else {}
