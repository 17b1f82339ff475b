"""docker-compose.yml as Compose reads it: merged, interpolated, one value a service. Knows no processes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "docker-compose.yml"
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MissingVariable(KeyError):
    """A variable that the file requires is unset or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A volume at a path of the container."""

    volume: str
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a container is started with. `health` is the command of its health check, without `CMD`."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    secrets: tuple[str, ...]
    depends_on: Mapping[str, str]
    health: tuple[str, ...]
    profiles: tuple[str, ...]
    restarts: bool
    raw: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether it runs an image of ours, whose entrypoint is `python -m`."""
        return self.image.startswith("bluelora")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """The file: services, volumes, and the file of each secret."""

    services: Mapping[str, Service]
    volumes: frozenset[str]
    secrets: Mapping[str, str]


def load(variables: Mapping[str, str]) -> Compose:
    """Read the file with these variables, as an operator's .env sets them.

    Raises:
        MissingVariable: A required one is not there.
    """
    raw = _filled(yaml.safe_load(FILE.read_text(encoding="utf-8")), variables)
    return Compose(
        services={name: _service(name, each, variables) for name, each in raw["services"].items()},
        volumes=frozenset(raw["volumes"]),
        secrets={name: each["file"] for name, each in raw["secrets"].items()},
    )


def image_folders() -> frozenset[str]:
    """The folders that our image makes for its user; a volume mounted elsewhere would be root's."""
    made = re.search(r"install -d -o bluelora -g bluelora (.+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert made
    return frozenset(made[1].split())


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:?why}`, nested ones too; `$$` is one `$`.

    Raises:
        MissingVariable: A `:?` without a value.
    """
    done, at = "", 0
    while (dollar := text.find("$", at)) >= 0:
        done += text[at:dollar]
        if text.startswith("$$", dollar):
            done, at = done + "$", dollar + 2
            continue
        assert text.startswith("${", dollar), f"write ${{NAME}}: {text}"
        at = _closing(text, dollar + 2)
        done += _value(text[dollar + 2 : at - 1], variables)
    return done + text[at:]


def _value(inside: str, variables: Mapping[str, str]) -> str:
    found = NAME.match(inside)
    assert found, inside
    name, rest = found[0], inside[found.end() :]
    if variables.get(name):
        return variables[name]
    if rest.startswith(":-"):
        return interpolate(rest[2:], variables)
    raise MissingVariable(name)


def _closing(text: str, at: int) -> int:
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at


def _filled(content: Any, variables: Mapping[str, str]) -> Any:
    match content:
        case str():
            return interpolate(content, variables)
        case dict():
            return {key: _filled(value, variables) for key, value in content.items()}
        case list():
            return [_filled(value, variables) for value in content]
        case _:
            return content


def _service(name: str, raw: dict[str, Any], variables: Mapping[str, str]) -> Service:
    # A name without a value is passed on if it is set.
    passed_on = {key: variables.get(key) if value is None else value for key, value in raw["environment"].items()}
    test = raw.get("healthcheck", {}).get("test", ["CMD"])
    return Service(
        name=name,
        image=raw["image"],
        command=tuple(raw.get("command", ())),
        environment={key: value for key, value in passed_on.items() if value is not None},
        mounts=tuple(_mount(text) for text in raw.get("volumes", ())),
        secrets=tuple(raw.get("secrets", ())),
        depends_on={key: value["condition"] for key, value in raw.get("depends_on", {}).items()},
        health=("sh", "-c", *test[1:]) if test[0] == "CMD-SHELL" else tuple(test[1:]),
        profiles=tuple(raw.get("profiles", ())),
        restarts=raw["restart"] != "no",
        raw=raw,
    )


def _mount(text: str) -> Mount:
    volume, path, *options = text.split(":")
    return Mount(volume=volume, path=path, read_only=options == ["ro"])
