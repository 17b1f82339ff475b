"""A model hub on this machine that answers as Hugging Face and ModelScope do, and fails when it is told to.

Layouts: huggingface.co/docs/hub/api and modelscope 1.40 (hub/api.py, hub/file_download.py). Large files of Hugging Face
are a redirect to storage on another address; ModelScope gives a hash for every file.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from typing_extensions import override

COMMIT = "5cf2f2e9a1f0a3f0d3f2d4c5b6a798877665544f"
LARGE = (".bin", ".safetensors", "tokenizer.model")


@dataclass
class Repository:
    """What the hub holds and how it misbehaves; `asked` is the log of requests for files, with their ranges."""

    id: str
    folder: Path
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """By file: how many bytes the next answers send before the connection is cut."""
    listed_hash: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    honours_ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def files(self) -> dict[str, bytes]:
        """Read all files, those of subfolders too."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def sha256(self, name: str, content: bytes) -> str:
        """Hash a file, or lie about it."""
        return self.listed_hash.get(name, hashlib.sha256(content).hexdigest())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository: ClassVar[Repository]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {name: values[0] for name, values in parse_qs(parts.query).items()}
        repository = self.repository.id
        if found := re.fullmatch(rf"/api/models/{repository}/revision/(\w+)", path):
            self._listing(self._hugging_face() if found[1] in ("main", COMMIT) else None)
        elif found := re.fullmatch(rf"/{repository}/resolve/{COMMIT}/(.+)", path):
            self._redirected(found[1])
        elif found := re.fullmatch(r"/storage/(.+)", path):
            self._file(found[1])
        elif path == f"/api/v1/models/{repository}/repo/files":
            self._listing(self._modelscope(query["Revision"]))
        elif path == f"/api/v1/models/{repository}/repo":
            self._file(query["FilePath"])
        else:
            self._answer(404, b'{"error":"Repository not found"}')

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _hugging_face(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.repository.files().items():
            blob = {"rfilename": name, "size": len(content)}
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if name.endswith(LARGE):
                blob["lfs"] = {
                    "sha256": self.repository.sha256(name, content),
                    "size": len(content),
                    "pointerSize": 134,
                }
            siblings.append(blob | {"blobId": self.repository.listed_hash.get(name, oid)[:40]})
        return {"_id": "x", "id": self.repository.id, "sha": COMMIT, "private": False, "siblings": siblings}

    def _modelscope(self, revision: str) -> dict[str, Any]:
        entries: list[dict[str, Any]] = [{"Name": "demo", "Path": "demo", "Type": "tree", "Size": 0, "Sha256": ""}]
        entries += [
            {
                "CommitMessage": "upload",
                "IsLFS": name.endswith(LARGE),
                "Mode": "33188",
                "Name": name.rpartition("/")[2],
                "Path": name,
                "Revision": COMMIT,
                "Sha256": self.repository.sha256(name, content),
                "Size": len(content),
                "Type": "blob",
            }
            for name, content in self.repository.files().items()
        ]
        files = entries if revision in ("master", "v1.0") else None
        data = {"Files": files, "IsVisual": 0, "LatestCommitter": {"ShortId": COMMIT[:8]}}
        return {"Code": 200, "Data": data, "Message": "success", "RequestId": "x", "Success": True}

    def _listing(self, listing: dict[str, Any] | None) -> None:
        if listing is None:
            self._answer(404, b'{"error":"Invalid rev id"}')
        else:
            self._answer(200, json.dumps(listing).encode())

    def _redirected(self, name: str) -> None:
        if not name.endswith(LARGE):
            self._file(name)
            return
        self.send_response(302)
        assert isinstance(self.server, ThreadingHTTPServer)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/storage/{name}")
        self.send_header("X-Linked-Size", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str) -> None:
        repository, content = self.repository, self.repository.files()[name]
        asked = self.headers.get("Range")
        repository.asked.append((name, asked))
        if name in repository.missing:
            self._answer(404, b"{}")
            return
        if repository.statuses.get(name):
            self._answer(repository.statuses[name].pop(0), b"busy")
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and repository.honours_ranges else 0  # type: ignore[index]
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if repository.cut_after.get(name):
            self.wfile.write(body[: repository.cut_after[name].pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(repository: Repository) -> Iterator[str]:
    """Serve one repository until the block ends; gives the endpoint for both hubs."""
    handler = type("Handler", (_Handler,), {"repository": repository})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
