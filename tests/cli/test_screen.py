"""Exit codes, JSON output and the options that become a job spec."""

import json

import pytest

from cli import jobs, main, options, watch
from cli.screen import Refused, screen


@pytest.fixture(autouse=True)
def _plain_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "json", False)
    monkeypatch.setattr(screen, "console", screen.console)


def test_spec_options_are_fields_with_json_values() -> None:
    words = [
        "--learning-rate",
        "2e-3",
        '--target-modules=["q_proj"]',
        "--load-best-model-at-end",
        "true",
        "--name",
        "7",
    ]
    assert jobs.spec_options(words) == {
        "learning_rate": 2e-3,
        "target_modules": ["q_proj"],
        "load_best_model_at_end": True,
        "name": "7",
    }


@pytest.mark.parametrize("words", [["stray"], ["--r"], ["--r", "8", "x"]])
def test_a_stray_word_among_spec_options_is_refused(words: list[str]) -> None:
    with pytest.raises(Refused):
        jobs.spec_options(words)


def test_metadata_needs_an_equals_sign() -> None:
    assert options.pairs(["team=search", "note=a=b"]) == {"team": "search", "note": "a=b"}
    with pytest.raises(Refused, match="key=value"):
        options.pairs(["team"])


def test_an_unknown_command_is_a_usage_error() -> None:
    assert main.main(["fly"]) == 2


def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out


def test_without_a_service_the_exit_code_is_4(
    tmp_path: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLUELORA_URL", raising=False)
    assert main.main(["jobs", "list", "--data-dir", str(tmp_path), "--json"]) == 4
    captured = capsys.readouterr()
    assert "bluelora up" in captured.err
    assert "bluelora up" in json.loads(captured.out)["detail"]


def test_an_address_where_nothing_listens_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELORA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("BLUELORA_API_KEY", "bl_x")
    assert main.main(["bases", "list"]) == 4


def test_a_url_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELORA_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("BLUELORA_API_KEY", raising=False)
    assert main.main(["bases", "list"]) == 3


def test_times_are_shown_as_clocks() -> None:
    assert [watch._clock(value) for value in (None, 7.4, 65, 3725)] == ["-", "0:07", "1:05", "1:02:05"]
