"""The least that could stand in our place: FastAPI, uvicorn and httpx, with nothing of ours.

`python -m bench.peers.bare_fastapi PORT ENGINE_URL FOLDER`. `POST /generate` validates a small body, sends constant token
ids to the engine with httpx (not streamed), and gives its JSON back: no key, no database, no tokenizer, no
accounting, no log, and no watching for clients that leave. `POST /datasets` writes a body to a file while it is hashed:
no inspection. `GET /healthz` is a constant.
"""

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

IDS: Final = (1, 318, 319, 320, 321, 322, 323, 324)


class Asked(BaseModel):
    """The part of our body that the load sends."""

    prompt: str
    max_tokens: int = 512


def create_app(engine_url: str, folder: Path) -> FastAPI:
    """Put the app together."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=engine_url, trust_env=False) as http:
            app.state.http = http
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/generate")
    async def generate(asked: Asked, request: Request) -> dict[str, Any]:
        sent = {"model": "bluelm-nano", "prompt": IDS, "max_tokens": asked.max_tokens, "temperature": 0}
        answered = await request.app.state.http.post("/v1/completions", json=sent)
        answered.raise_for_status()
        body: dict[str, Any] = answered.json()
        return body

    @app.post("/datasets", status_code=201)
    async def upload(request: Request) -> dict[str, str]:
        digest = hashlib.sha256()
        with (folder / "uploaded").open("wb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
        return {"sha256": digest.hexdigest()}

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    bare = create_app(sys.argv[2], Path(sys.argv[3]))
    uvicorn.run(bare, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, ws="none")
