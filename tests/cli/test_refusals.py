"""What goes wrong before a service is asked: said in one sentence, with the exit code of a refusal."""

import json
import socket
from pathlib import Path

import pytest

from cli import doctor, imports, main, up
from cli.places import DataDir, write_json
from cli.screen import Refused, screen
from core.domain.bases import InvalidBaseName


@pytest.fixture(autouse=True)
def _plain_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "json", False)
    monkeypatch.setattr(screen, "console", screen.console)
    monkeypatch.setenv("BLUELORA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("BLUELORA_API_KEY", "none")


def test_a_name_that_leads_out_of_the_imports_clears_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "objects" / "kept"
    kept.parent.mkdir()
    kept.write_text("bytes of the store")
    with pytest.raises(InvalidBaseName):
        imports.run(tmp_path, name="../../objects", data=DataDir(tmp_path), console=screen.console)
    assert kept.exists()


def test_a_refused_import_leaves_no_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = DataDir(tmp_path / "data")
    imports.migrate(data)
    left_over = data.bases / "mine"
    left_over.mkdir(parents=True)
    with pytest.raises(Refused):
        imports.run(source, name="mine", data=data, console=screen.console)
    assert not [path for path in data.bases.iterdir() if path.is_dir()]


def test_a_setting_that_is_wrong_is_named_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLUELORA_LEASE_S", "hunter2")
    assert main.main(["up", "--data-dir", str(tmp_path), "--port", "0"]) == 3
    said = capsys.readouterr().err
    assert "BLUELORA_LEASE_S" in said
    assert "hunter2" not in said


def test_a_data_directory_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["up", "--data-dir", "/proc/none", "--port", "0"]) == 3
    assert "/proc/none" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has the port may answer like one of us, and would be announced as this service."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main.main(["up", "--data-dir", str(tmp_path), "--port", str(port)]) == 3
    said = capsys.readouterr().err
    assert str(port) in said
    assert "--port 0" in said
    assert not (tmp_path / "bluelora.db").exists()


def test_what_a_killed_supervisor_left_is_neither_believed_nor_kept(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    write_json(data.service_file, {"url": "http://127.0.0.1:9", "pids": {}})
    check = next(check for check in doctor.examine(data) if check.name == "data directory")
    assert check.state == "note"
    assert "does not answer" in check.found
    with up.only_one(data):
        assert not data.service_file.exists()


@pytest.mark.parametrize(("text", "said"), [("[1", "not JSON"), ("[1]", "no JSON object"), ('{"r": NaN}', "not JSON")])
def test_a_spec_file_that_is_no_spec_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "spec.json").write_text(text)
    assert main.main(["jobs", "create", "--file", str(tmp_path / "spec.json")]) == 3
    assert said in capsys.readouterr().err


def test_a_missing_spec_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["jobs", "create", "--file", str(tmp_path / "none.json"), "--json"]) == 3
    assert "none.json" in json.loads(capsys.readouterr().out)["detail"]


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_has_not_is_sent_as_text(rate: str) -> None:
    # Nothing listens there: 4 says that the request could be written.
    assert main.main(["jobs", "create", "--dataset", "d", "--name", "n", "--learning-rate", rate]) == 4


def test_a_folder_without_the_two_files_is_refused_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapters", "import", str(tmp_path), "--name", "x"]

    def said() -> str:
        assert main.main(command) == 3
        return capsys.readouterr().err

    assert "adapter_config.json" in said()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter_model.safetensors" in said()
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    assert "weights_only=True" in said()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    command += ["--system-prompt", f"@{tmp_path / 'none'}"]
    assert "can't be read" in said()
    assert main.main(["adapters", "import", str(tmp_path / "adapter_config.json"), "--name", "x"]) == 3
    assert main.main(command[:-2]) == 4  # all is there; nobody answers
    assert main.main(["adapters", "import", str(tmp_path)]) == 2
