"""A REST client of a running service: the one that `up` started in the data directory, or any by URL and key."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import httpx

from cli.places import DataDir
from cli.screen import Refused, Unreachable

ANSWER_S: Final = 60.0


class Service:
    """Calls one service. Every method raises Refused for a 4xx or 5xx and Unreachable without an answer."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(ANSWER_S, connect=5.0)
        )

    def get(self, path: str, **query: str | int | None) -> Any:  # noqa: ANN401  (a JSON document)
        """GET a JSON document."""
        return self._json("GET", path, params={key: value for key, value in query.items() if value is not None})

    def post(self, path: str, body: Mapping[str, Any], *, timeout_s: float = ANSWER_S) -> Any:  # noqa: ANN401
        """POST a JSON body, safe to repeat: each call has an idempotency key of its own."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", path, json=body, headers=headers, timeout=httpx.Timeout(timeout_s, connect=5.0))

    def put(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """PUT a JSON body."""
        return self._json("PUT", path, json=body)

    def delete(self, path: str) -> Any:  # noqa: ANN401
        """DELETE a resource."""
        return self._json("DELETE", path)

    def upload(self, path: str, file: IO[bytes], *, query: Mapping[str, str]) -> Any:  # noqa: ANN401
        """POST a file's bytes as the body, streamed."""
        kind = {"Content-Type": "application/octet-stream"}
        return self._json("POST", path, params=query, content=file, headers=kind, timeout=None)

    def form(self, path: str, fields: Mapping[str, str], files: Sequence[tuple[str, IO[bytes]]]) -> Any:  # noqa: ANN401
        """POST a form of fields and named files, streamed in this order; safe to repeat."""
        parts = [("file", (name, file)) for name, file in files]
        once = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", path, data=dict(fields), files=parts, headers=once, timeout=None)

    def download(self, path: str, target: Path) -> None:
        """GET bytes into a file; a broken download leaves none."""
        draft = target.with_name(f".{target.name}.part")
        try:
            with _reached(self.url), self._client.stream("GET", path) as answer:
                if answer.is_error:
                    answer.read()
                    _refuse(answer)
                with draft.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """POST and read server-sent events until `[DONE]`.

        Raises:
            Refused: An error before or in the stream.
        """
        request = self._client.stream(
            "POST", path, json={**body, "stream": True}, timeout=httpx.Timeout(600.0, connect=5.0)
        )
        with _reached(self.url), request as answer:
            if answer.is_error:
                answer.read()
                _refuse(answer)
            for line in answer.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise Refused(chunk["error"]["message"], problem=chunk)
                yield chunk

    def _json(self, method: str, path: str, **request: Any) -> Any:  # noqa: ANN401
        with _reached(self.url):
            answer = self._client.request(method, path, **request)
        if answer.is_error:
            _refuse(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise Refused(f"{self.url} answers, but not as a BlueLoRA service does.") from error


def service(data: DataDir) -> Service:
    """The service that BLUELORA_URL and BLUELORA_API_KEY name, else the one running on the data directory.

    Raises:
        Unreachable: Nothing runs there.
        Refused: A URL without a key.
    """
    url, key = os.environ.get("BLUELORA_URL"), os.environ.get("BLUELORA_API_KEY")
    if url is None:
        if not data.service_file.exists():
            raise Unreachable(
                f"No service runs on {data.path}. Start one with `bluelora up --data-dir {data.path}`, "
                "or set BLUELORA_URL and BLUELORA_API_KEY."
            )
        url = str(json.loads(data.service_file.read_text())["url"])
        key = key or data.admin_key_file.read_text().strip()
    if not key:
        raise Refused("BLUELORA_URL is set, BLUELORA_API_KEY is not; the service needs a key.")
    return Service(url.rstrip("/"), key)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Turn transport errors into Unreachable."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unreachable(f"{url} does not answer ({type(error).__name__}).") from error


def _refuse(answer: httpx.Response) -> NoReturn:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail") if isinstance(problem, dict) else None
    raise Refused(detail or f"HTTP {answer.status_code} from {answer.url.path}", problem=problem)
