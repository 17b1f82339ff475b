"""Adapters made elsewhere over HTTP: how they come, what is said of them, and what is left when they are refused."""

import concurrent.futures
import contextlib
import hashlib
import json
import random
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from core.domain.loraweights import SAVE_AGAIN
from core.runtime import Runtime
from tests.support import loras, registry
from tests.support.databases import SqliteDatabases
from tests.support.live import Live, serving
from tests.support.loras import CONFIG, FORM, WEIGHTS, form, good, headed, safetensors, send
from tests.support.problems import problem


@pytest.fixture(scope="module")
def live(sqlite_databases: SqliteDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with two bases of different sizes."""
    folder = tmp_path_factory.mktemp("imports")
    sqlite_databases.copy(folder)
    with serving(folder, max_body_bytes=65_536, base="blue") as running:
        registry.sized_base(running.runtime, name="blue", sizes=loras.SIZES)
        registry.sized_base(running.runtime, name="other", sizes=loras.SIZES | {"intermediate_size": 32})
        registry.base(running.runtime, name="hollow")
        yield running


@pytest.fixture(scope="module")
def member(live: Live) -> Iterator[httpx.Client]:
    """One member for all imports that leave nothing."""
    with live.client(live.key("member", project="refused")) as opened:
        yield opened


def stored(runtime: Runtime) -> set[str]:
    """Every file of the store, scratch included."""
    folder = runtime.settings.data_dir / "objects"
    return {str(path.relative_to(folder)) for path in folder.glob("*/*")}


def test_an_adapter_comes_in_and_is_shown_as_one_of_ours(live: Live, client: httpx.Client) -> None:
    fields = {"name": "persona", "base": "blue", "system_prompt": "你是小蓝。", "metadata": '{"team": "搜索"}'}
    answer = send(client, good(), **fields)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/adapters/{made['id']}"
    assert client.get(answer.headers["location"]).json() == made
    assert (made["kind"], made["reference"], made["r"]) == ("imported", "persona@1", 2)
    assert (made["job"], made["step"], made["system_prompt"]) == (None, None, "你是小蓝。")
    assert made["metadata"] == {"team": "搜索"}

    manifest = made["manifest"]
    base = client.get("/bases/blue").json()
    assert (manifest["base"], manifest["base_fingerprint"]) == ("blue", base["fingerprint"])
    assert manifest["template_hash"] == made["template_hash"] == base["template_hash"]
    assert manifest["source"] == {
        CONFIG: hashlib.sha256(good()[0][1]).hexdigest(),
        WEIGHTS: hashlib.sha256(good()[1][1]).hexdigest(),
        "peft_version": "0.21.2",
    }
    assert [manifest[unknown] for unknown in ("job", "spec", "dataset_sha256", "metrics", "step")] == [None] * 5

    files = {file["name"]: file for file in made["files"]}
    for name, file in files.items():
        content = client.get(f"/adapters/persona/files/{name}").content
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
    assert client.get(f"/adapters/persona/files/{WEIGHTS}").content == good()[1][1]
    assert "someone" not in client.get(f"/adapters/persona/files/{CONFIG}").text
    assert manifest["files"].keys() == files.keys() - {"manifest.json"}
    assert made["sha256"] == files["manifest.json"]["sha256"]

    assert client.get("/adapters", params={"status": "imported"}).json()["data"][0]["id"] == made["id"]
    client.put("/adapters/persona/aliases/prod", json={"version": 1}).raise_for_status()
    assert client.get("/v1/models/persona@prod").json()["root"] == "blue"


def test_imports_count_among_the_uploads_that_are_taken_at_once(client: httpx.Client, live: Live) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(live.runtime.settings.max_uploads):
            held.enter_context(live.runtime.uploads.taken())
        problem(send(client, good()), status=429, code="too_many_uploads")
    assert send(client, good()).status_code == 201


def test_the_same_again_is_the_same_version_and_anything_else_the_next(client: httpx.Client) -> None:
    first = send(client, good())
    again = send(client, good(), metadata='{"a": "b"}')
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    spelt = send(client, good(base_model_name_or_path=None, lora_alpha=4.0))
    assert (spelt.status_code, spelt.json()["reference"]) == (200, "made@1")
    assert send(client, good(seed=1)).json()["reference"] == "made@2"
    assert send(client, good(lora_alpha=8)).json()["reference"] == "made@3"
    assert send(client, good(), system_prompt="x").json()["reference"] == "made@4"
    assert send(client, good(), name="elsewhere").json()["reference"] == "elsewhere@1"
    assert send(client, good()).json()["reference"] == "made@1"
    client.delete("/adapters/made@1").raise_for_status()
    assert send(client, good()).json()["reference"] == "made@5"


def test_an_import_is_newer_than_a_trained_version_before_it(live: Live, client: httpx.Client, tmp_path: Path) -> None:
    trained = registry.adapter(live.runtime, client, tmp_path, name="made")
    imported = send(client, good()).json()
    assert (trained.reference, imported["reference"]) == ("made@1", "made@2")
    assert client.get("/adapters/made").json()["id"] == imported["id"]
    assert client.get(f"/adapters/{trained.job_id}@latest").json()["id"] == trained.id
    # What was imported is never taken for what was trained, even of equal bytes.
    assert client.get("/adapters/made@1").json()["kind"] == "final"


def test_the_same_key_makes_one_adapter(client: httpx.Client) -> None:
    first, again = (send(client, good(), key="k") for _ in range(2))
    assert again.content == first.content
    assert (first.status_code, again.status_code, again.headers["idempotency-replayed"]) == (201, 201, "true")
    problem(send(client, good(seed=1), key="k"), status=422, code="idempotency_key_reused")
    client.delete("/adapters/made@1").raise_for_status()
    assert send(client, good(), key="k").content == first.content


def test_many_at_once_get_one_version_each(client: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: send(client, good(seed=seed)), [0, 1, 2, 3] * 2))
    assert sorted(answer.json()["version"] for answer in answers) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [201] * 4


def test_only_members_import_and_nobody_sees_what_others_did(live: Live, client: httpx.Client, project: str) -> None:
    send(client, good()).raise_for_status()
    for role in ("read", "infer"):
        with live.client(live.key(role, project=project)) as low:
            problem(send(low, good()), status=403, code="role_too_low")
    with live.client(live.key("member", project=f"not-{project}")) as stranger:
        problem(stranger.get("/adapters/made"), status=404, code="adapter_not_found")
        assert send(stranger, good()).json()["reference"] == "made@1"
    with live.client(None) as nobody:
        problem(send(nobody, good()), status=401, code="invalid_api_key")


Bad = tuple[loras.Parts, Mapping[str, str], int, str, str]


def weights(content: bytes) -> loras.Parts:
    return [(CONFIG, loras.config()), (WEIGHTS, content)]


def poisoned(dtype: str, bits: bytes) -> bytes:
    made = loras.tensors(dtype=dtype)
    name, (_, shape, values) = list(made.items())[-1]
    made[name] = (dtype, shape, values[: -len(bits)] + bits)
    return safetensors(made)


def overlapping() -> bytes:
    header, data = loras.opened(good()[1][1])
    first, second = list(header)[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    return headed(json.dumps(header).encode(), data)


GOOD = good()
BAD: dict[str, Bad] = {
    "no name": (GOOD, {"name": ""}, 422, "invalid_value", "1 to 64"),
    "a name with a slash": (GOOD, {"name": "a/b"}, 422, "invalid_value", "1 to 64"),
    "a name like an id": (GOOD, {"name": "ad_x"}, 422, "invalid_value", "like an id"),
    "the name of a base": (GOOD, {"name": "blue"}, 409, "name_taken", "base"),
    "an unknown base": (GOOD, {"base": "nothing"}, 404, "base_not_found", "blue"),
    "a base outside": (GOOD, {"base": "../../etc"}, 404, "base_not_found", "blue"),
    "a base without sizes": (GOOD, {"base": "hollow"}, 503, "base_unusable", "config.json"),
    "another base": (GOOD, {"base": "other"}, 422, "broken_adapter", "[24, 2]"),
    "an unknown field": (GOOD, {"sytem_prompt": "x"}, 422, "unknown_parameter", "system_prompt"),
    "another chat format": (GOOD, {"template_hash": "1" * 64}, 409, "template_mismatch", "chat format"),
    "no hash": (GOOD, {"template_hash": "x"}, 422, "invalid_value", "pattern"),
    "a long system prompt": (GOOD, {"system_prompt": "x" * 40_000}, 422, "out_of_range", "32768"),
    "NUL in the system prompt": (GOOD, {"system_prompt": "a\0b"}, 422, "invalid_value", "NUL"),
    "metadata that is no JSON": (GOOD, {"metadata": "team=a"}, 422, "invalid_upload", "JSON"),
    "metadata of numbers": (GOOD, {"metadata": '{"a": 1}'}, 422, "invalid_upload", "metadata.a"),
    "a pickle": ([GOOD[0], ("adapter_model.bin", b"PK")], {}, 422, "broken_adapter", "save_file"),
    "a pickle by another name": (weights(b"PK\x03\x04" + b"\0" * 200), {}, 422, "broken_adapter", "save_file"),
    "a template": (
        [GOOD[0], ("tokenizer_config.json", b"{}"), GOOD[1]],
        {},
        422,
        "broken_adapter",
        "tokenizer_config.json",
    ),
    "a path": ([("../../adapter_config.json", GOOD[0][1]), GOOD[1]], {}, 422, "broken_adapter", "names"),
    "no weights": ([GOOD[0]], {}, 400, "malformed_form", WEIGHTS),
    "no config": ([GOOD[1]], {}, 400, "malformed_form", f"before {CONFIG}"),
    "out of order": ([GOOD[1], GOOD[0]], {}, 400, "malformed_form", "last"),
    "the config twice": ([GOOD[0], GOOD[0], GOOD[1]], {}, 400, "malformed_form", "twice"),
    "the weights twice": ([*GOOD, GOOD[1]], {}, 400, "malformed_form", "too late"),
    "a large config": ([(CONFIG, b" " * 70_000), GOOD[1]], {}, 400, "malformed_form", "65536"),
    "an empty config": ([(CONFIG, b""), GOOD[1]], {}, 422, "broken_adapter", "JSON"),
    "a pattern": (good(target_modules="(a+)+$"), {}, 422, "broken_adapter", "no pattern"),
    "code to import": (good(auto_mapping={"parent_library": "os"}), {}, 422, "broken_adapter", "no code"),
    "megatron": (good(megatron_core="os"), {}, 422, "broken_adapter", "megatron_core"),
    "layers anew": (good(layer_replication=[[0, 1]]), {}, 422, "broken_adapter", "null"),
    "a huge r": (good(r=65), {}, 422, "broken_adapter", "at most 64"),
    "another method": (good(peft_type="IA3"), {}, 422, "broken_adapter", "LORA"),
    "half a character": (
        [(CONFIG, loras.config()[:-1] + b', "\\ud800": 1}'), GOOD[1]],
        {},
        422,
        "broken_adapter",
        "JSON",
    ),
    "empty weights": (weights(b""), {}, 422, "broken_adapter", "cut"),
    "a header of 100 MB": (
        weights((100 * 2**20).to_bytes(8, "little") + b" " * 10**6),
        {},
        422,
        "broken_adapter",
        "header",
    ),
    "overlapping": (weights(overlapping()), {}, 422, "broken_adapter", "overlap"),
    "cut": (weights(GOOD[1][1][:-1]), {}, 422, "broken_adapter", "cut"),
    "too long": (weights(GOOD[1][1] + b"\0"), {}, 422, "broken_adapter", "goes on"),
    "much too long": (weights(GOOD[1][1] + b"\0" * 3_000_000), {}, 422, "broken_adapter", "goes on"),
    "NaN in F32": (weights(poisoned("F32", b"\0\0\xc0\x7f")), {}, 422, "broken_adapter", "finite"),
    "infinity in F16": (weights(poisoned("F16", b"\0\x7c")), {}, 422, "broken_adapter", "finite"),
    "NaN in BF16": (weights(poisoned("BF16", b"\xc0\xff")), {}, 422, "broken_adapter", "finite"),
    "no effect": (
        weights(safetensors({n: (d, s, bytes(len(v))) for n, (d, s, v) in loras.tensors().items()})),
        {},
        422,
        "broken_adapter",
        "changes no answer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_refused_by_name_and_leaves_nothing(live: Live, member: httpx.Client, name: str) -> None:
    parts, fields, status, code, says = BAD[name]
    before = stored(live.runtime)
    answer = send(member, parts, **fields)
    assert says in problem(answer, status=status, code=code)["detail"]
    if code == "broken_adapter":
        (finding,) = answer.json()["errors"]
        assert finding["code"] != code
    assert stored(live.runtime) == before
    assert member.get("/adapters").json()["data"] == []


def _post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/adapters", content=body, headers=FORM | headers)


def test_a_form_that_is_torn_or_no_form_is_refused(live: Live, client: httpx.Client) -> None:
    before, whole = stored(live.runtime), form(GOOD, name="torn")
    dice = random.Random(1)
    for cut in (len(whole) - 3, *(dice.randrange(len(whole)) for _ in range(12))):
        problem(_post(client, whole[:cut]), status=400, code="malformed_form")
    problem(_post(client, form([], name="torn")), status=400, code="malformed_form")
    late = form([*GOOD], name="torn").replace(
        b"--XbX--", b'--XbX\r\nContent-Disposition: form-data; name="base"\r\n\r\nblue\r\n--XbX--'
    )
    assert "too late" in problem(_post(client, late), status=400, code="malformed_form")["detail"]
    twice = form([], name="torn").removesuffix(b"--XbX--\r\n") + whole
    assert "twice" in problem(_post(client, twice), status=400, code="malformed_form")["detail"]
    elsewhere = whole.replace(b'name="file"; filename="adapter_config', b'name="config"; filename="adapter_config')
    assert "'file'" in problem(_post(client, elsewhere), status=400, code="malformed_form")["detail"]
    problem(client.post("/adapters", json={"name": "x"}), status=415, code="unsupported_media_type")
    problem(client.post("/adapters", content=b"x"), status=415, code="unsupported_media_type")
    coded = _post(client, whole, **{"Content-Encoding": "gzip"})
    problem(coded, status=415, code="unsupported_media_type")
    asked = client.post("/adapters", params={"name": "x"}, content=whole, headers=FORM)
    assert "field of the form" in problem(asked, status=422, code="invalid_upload")["detail"]
    assert stored(live.runtime) == before
    assert client.get("/adapters").json()["data"] == []


@pytest.mark.parametrize("announced", [-100, 100], ids=["short", "long"])
def test_a_length_that_lies_leaves_nothing(live: Live, client: httpx.Client, announced: int) -> None:
    before, body = stored(live.runtime), form(GOOD, name="liar")
    with _connected(live) as connection:
        connection.sendall(_head(client, length=len(body) + announced) + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    _settled(live, before)
    assert client.get("/adapters").json()["data"] == []


def test_a_client_that_leaves_at_99_percent_leaves_nothing(live: Live, client: httpx.Client) -> None:
    before, body = stored(live.runtime), form(GOOD, name="gone")
    for _ in range(5):
        with _connected(live) as connection:
            connection.sendall(_head(client, length=len(body)) + body[: len(body) * 99 // 100])
    _settled(live, before)
    assert client.get("/adapters").json()["data"] == []


def test_a_refusal_comes_at_its_byte_though_the_client_sends_no_more(live: Live, client: httpx.Client) -> None:
    before = stored(live.runtime)
    header = safetensors(loras.tensors(r=4))
    body = form(weights(header), name="waits")
    end = body.index(header) + 8 + int.from_bytes(header[:8], "little")
    for cut in (end, body.index(header) + 8 + 1):
        sent = body[:cut] if cut == end else body.replace(header[:8], b"\xff" * 8)[:cut]
        with _connected(live) as connection:
            connection.sendall(_head(client, length=len(body) + 10**6) + sent)
            connection.settimeout(10)  # the service itself would wait 30 s for a silent client
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 422"), answer[:200]
    _settled(live, before)


def _connected(live: Live) -> socket.socket:
    address = urlsplit(live.url)
    return socket.create_connection((str(address.hostname), int(address.port or 0)))


def _head(client: httpx.Client, *, length: int) -> bytes:
    key, kind = client.headers["authorization"], FORM["Content-Type"]
    lines = ("POST /adapters HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {key}", f"Content-Type: {kind}")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


def _settled(live: Live, before: set[str]) -> None:
    deadline = time.monotonic() + 30
    while stored(live.runtime) != before:
        assert time.monotonic() < deadline, stored(live.runtime) - before
        time.sleep(0.05)


def test_mutated_adapters_are_refused_or_right_and_never_an_error_of_ours(live: Live, client: httpx.Client) -> None:
    """Each outcome is 201 or 200 with files that safetensors itself reads, or 4xx."""
    seed = 20
    dice = random.Random(seed)
    for turn in range(20):
        parts = [(name, _mutated(content, dice)) for name, content in good(seed=turn)]
        answer = send(client, parts)
        assert answer.status_code in {200, 201, 400, 422}, (seed, turn, answer.text)
        if answer.status_code == 201:
            content = client.get(f"/adapters/{answer.json()['id']}/files/{WEIGHTS}").content
            path = live.runtime.settings.data_dir / "read"
            path.write_bytes(content)
            assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), (seed, turn)


FIELDS = st.one_of(
    st.sampled_from(["name", "base", "system_prompt", "template_hash", "metadata", "file"]),
    st.text(min_size=1, max_size=9),
)
TEXT = st.text(max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(FIELDS, TEXT, max_size=4),
    names=st.lists(st.sampled_from([CONFIG, WEIGHTS]) | TEXT, max_size=3),
)
def test_no_form_breaks_the_service(member: httpx.Client, fields: dict[str, str], names: list[str]) -> None:
    answer = send(member, [(name, b"x") for name in names], **fields)
    assert 400 <= answer.status_code < 500, answer.text
    problem(answer, status=answer.status_code, code=answer.json()["code"])


def _mutated(content: bytes, dice: random.Random) -> bytes:
    change: Callable[[bytearray, int], Any] = dice.choice(_CHANGES)
    changed = bytearray(content)
    for _ in range(dice.randrange(3)):
        change(changed, dice.randrange(len(changed)))
    return bytes(changed)


def _flip(content: bytearray, at: int) -> None:
    content[at] ^= 1 << at % 8


def _cut(content: bytearray, at: int) -> None:
    del content[at : at + 5]


def _repeat(content: bytearray, at: int) -> None:
    content[at:at] = content[at : at + 9]


_CHANGES = (_flip, _cut, _repeat)


def test_the_advice_for_a_pickle_works(client: httpx.Client, tmp_path: Path) -> None:
    made = {name: torch.full(tuple(shape), 0.5) for name, (_, shape, _) in loras.tensors().items()}
    torch.save(made, tmp_path / "adapter_model.bin")
    words = shlex.split(SAVE_AGAIN)
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    answer = send(client, [(CONFIG, loras.config()), (WEIGHTS, (tmp_path / WEIGHTS).read_bytes())])
    assert answer.status_code == 201, answer.text


def test_uploads_do_not_hold_up_other_requests(live: Live, client: httpx.Client) -> None:
    """Large headers are read in a process of their own."""
    body = form(weights(headed(b'{"a": [' + b"1," * 400_000 + b"1]}", b"")), name="slow")
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            problem(_post(client, body), status=422, code="broken_adapter")

    sender = threading.Thread(target=flood)
    sender.start()
    with live.client() as other:
        for _ in range(20):
            assert other.get("/healthz").status_code == 200
    done.set()
    sender.join()
