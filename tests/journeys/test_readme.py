"""Both READMEs' walks, line by line in a shell, print what they say. `…` in a README stands for any text."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.service import ROOT, Service

BLOCK: Final = re.compile(r"```bash\n(?P<commands>.*?)```\n```text\n(?P<output>.*?)```", re.DOTALL)
MARK: Final = "=== a block ends here ==="


def _walk(readme: str) -> list[tuple[str, str]]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    walk = text[text.index("<!-- walk -->") : text.index("<!-- /walk -->")]
    blocks = [(found["commands"], found["output"]) for found in BLOCK.finditer(walk)]
    assert walk.count("```bash") == len(blocks), "each block of commands says what it prints"
    return blocks


def _matches(expected: str, printed: str) -> bool:
    # Tables are padded to the terminal, so any run of blanks equals any other.
    pattern = ".*?".join(re.escape(part) for part in re.sub(r"[ \t]+", " ", expected.strip()).split("…"))
    return re.fullmatch(pattern, re.sub(r"[ \t]+", " ", printed.strip()), re.DOTALL) is not None


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_walk_prints_what_the_readme_says(readme: str, service: Service, tmp_path: Path) -> None:
    blocks = _walk(readme)
    assert len(blocks) >= 7
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "bluelora-data").symlink_to(service.data_dir)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "bluelora"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cli "$@"\n')
    command.chmod(0o755)
    script = "".join(f"{commands}echo; echo '{MARK}'\n" for commands, _ in blocks)
    shell = subprocess.run(
        ["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=True
    )
    printed = shell.stdout.split(MARK)
    for (commands, expected), output in zip(blocks, printed, strict=False):
        assert _matches(expected, output), f"{commands}\nprinted\n{output}\nnot\n{expected}\n{shell.stderr}"


def test_both_readmes_walk_the_same_way() -> None:
    english, chinese = (_walk(name) for name in ("README.md", "README.zh-CN.md"))
    assert [(commands.replace("mao", "cat"), output.replace("mao", "cat")) for commands, output in chinese] == english
