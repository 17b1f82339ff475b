"""A whole service in this process: the real app on real SQLite and files, served by uvicorn on a free port."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from api import server
from api.main import create_app
from core.runtime import Runtime
from core.settings import Settings

ADMIN = "bl_admin-key-of-the-tests-0123456789abcdef"


@dataclass(frozen=True)
class Live:
    """A running service; `runtime` is its own, for what a worker would do."""

    url: str
    runtime: Runtime

    def client(self, key: str | None = ADMIN) -> httpx.Client:
        """A client with a key, or without one."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Without TLS no certificates need reading, which would take longer than most tests.
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0, verify=False, trust_env=False)

    def key(self, role: str, *, project: str) -> str:
        """Make a key of a project."""
        with self.client() as admin:
            made = admin.post("/keys", json={"name": f"{role} of {project}", "role": role, "project": project})
        assert made.status_code == 201, made.text
        return str(made.json()["secret"])


@contextlib.contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Live]:
    """Serve the migrated database of a folder until the block ends."""
    (folder / "admin.key").write_text(ADMIN)
    given = {"data_dir": folder, "admin_key_file": folder / "admin.key"} | settings
    app = create_app(Settings.model_validate(given))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        running = uvicorn.Server(server.config(app, host="127.0.0.1", port=port))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, name="live")
        thread.start()
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            assert running.started, "the service did not start"
            yield Live(url=f"http://127.0.0.1:{port}", runtime=app.state.runtime)
        finally:
            running.should_exit = True
            thread.join(30)
