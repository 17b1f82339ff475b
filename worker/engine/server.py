"""vLLM's protocol over HTTP. Knows routes, statuses and keys; generation and adapters are other modules'.

Statuses, error shapes and the texts that clients read are vLLM 0.32's (core/inference/protocol.py names the routes).
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from core.domain.adapters import AdapterNotFound
from core.domain.generation import EngineUnavailable, LogitsNotFinite, PromptTooLong
from core.errors import Conflict, Invalid, NotFound, Overloaded, Problem, Unavailable
from core.inference.protocol import (
    NOT_FINITE,
    Completion,
    CompletionRequest,
    EngineError,
    EngineFailure,
    LoadAdapter,
    ModelCard,
    ModelList,
    UnloadAdapter,
)
from core.text.chat import Renderer
from worker.engine import weights
from worker.engine.answers import Answer
from worker.engine.generate import Generation
from worker.engine.requests import Load
from worker.engine.shelves import Shelf
from worker.engine.weights import Fit

STATUSES: Final[tuple[tuple[type[Problem], int, str], ...]] = (
    (LogitsNotFinite, 500, NOT_FINITE),
    (NotFound, 404, "NotFoundError"),
    (Invalid, 400, "BadRequestError"),
    (Conflict, 400, "BadRequestError"),
    (Overloaded, 429, "TooManyRequestsError"),
    (Unavailable, 503, "ServiceUnavailableError"),
)
LOAD_S: Final = 60.0
"""How long a load may wait for requests on the adapters that it displaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the routes serve: one base, known to clients as `name`, and the adapters on the shelf."""

    name: str
    folder: Path
    renderer: Renderer
    vocabulary: int
    fit: Fit
    shelf: Shelf
    generation: Generation
    api_key: str | None


def create_app(served: Served) -> ASGIApp:
    """Make the server."""
    app = FastAPI(title="BlueLoRA engine", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_adapter_routes(app, served)

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return _models(served)

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        _check_prompt(asked, served)
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(_answer(asked, served))
            if asked.stream:
                return _Stream(answer, stack.pop_all())
            return await _unless_left(answer, request)

    return app if served.api_key is None else _Keyed(app, served.api_key)


def _add_adapter_routes(app: FastAPI, served: Served) -> None:
    @app.post("/v1/load_lora_adapter")
    async def load_adapter(asked: LoadAdapter) -> PlainTextResponse:
        served.shelf.check_free(asked.lora_name)
        if asked.lora_name == served.name:
            raise Invalid(f"'{served.name}' is the base's name.", param="lora_name")
        if not await asyncio.to_thread(Path(asked.lora_path).is_dir):
            raise AdapterNotFound(f"No adapter found for '{asked.lora_name[:200]}'.", param="lora_path")
        # Hashing and checking 40 MB must stall neither this loop nor the model's.
        checked = await asyncio.to_thread(weights.read, Path(asked.lora_path), served.fit)
        load = Load(asked.lora_name, asked.lora_path, checked)
        served.generation.load(load)
        try:
            await asyncio.wait_for(asyncio.wrap_future(load.done), LOAD_S)
        except TimeoutError as error:
            raise EngineUnavailable("All adapters here are in use; try again later.", retry_after_s=1.0) from error
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload_adapter(asked: UnloadAdapter) -> PlainTextResponse:
        served.shelf.retire(asked.lora_name)
        served.generation.wake()
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


@asynccontextmanager
async def _answer(asked: CompletionRequest, served: Served) -> AsyncIterator[Answer]:
    """Submit a request, and see to it that it ends when nobody reads on."""
    slot = None if asked.model == served.name else served.shelf.acquire(asked.model)
    try:
        answer = Answer(asked, slot, decoder=served.renderer.decoder(), submit=served.generation.submit)
    except Overloaded:
        if slot is not None:
            served.shelf.release(slot)
        raise
    try:
        yield answer
    finally:
        answer.close(served.generation.wake)


class _Stream(StreamingResponse):
    """Server-sent events of one answer; the answer is closed when the client leaves, read or not."""

    def __init__(self, answer: Answer, stack: AsyncExitStack) -> None:
        super().__init__(_events(answer), media_type="text/event-stream")
        self._stack = stack

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _events(answer: Answer) -> AsyncIterator[str]:
    try:
        async for chunk in answer.chunks():
            yield f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
    except Problem as problem:
        yield f"data: {_failure(problem).model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"


async def _unless_left(answer: Answer, request: Request) -> Response:
    """Answer in one piece, or give up when the client does."""
    reading = asyncio.create_task(answer.whole())
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return Response(status_code=499)
        completion: Completion = await reading
        return JSONResponse(completion.model_dump(exclude_none=True))
    finally:
        reading.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _models(served: Served) -> ModelList:
    length = served.renderer.context_length
    base = ModelCard(id=served.name, root=str(served.folder), max_model_len=length)
    adapters = [ModelCard(id=slot.name, root=slot.path, parent=served.name) for slot in served.shelf.loaded()]
    return ModelList(data=[base, *adapters])


def _check_prompt(asked: CompletionRequest, served: Served) -> None:
    """Refuse what can't be answered before it takes a place in the queue.

    Raises:
        PromptTooLong: Prompt and answer don't fit the context.
        Invalid: An id that the base has no row for; on a GPU it would end the process.
    """
    length = served.renderer.context_length
    if len(asked.prompt) + asked.max_tokens > length:
        raise PromptTooLong(
            f"This model's maximum context length is {length} tokens. However, you requested {asked.max_tokens} output "
            f"tokens and your prompt contains {len(asked.prompt)} tokens. Please reduce one of them.",
            param="max_tokens" if len(asked.prompt) < length else "prompt",
        )
    if max(asked.prompt) >= served.vocabulary:
        raise Invalid(f"Token id {max(asked.prompt)} is out of vocabulary.", param="prompt")


async def _problem(_request: Request, problem: Exception) -> Response:
    if not isinstance(problem, Problem):
        raise problem
    failure = _failure(problem)
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(max(1, round(problem.retry_after_s)))}
    return JSONResponse(failure.model_dump(), status_code=_status(problem), headers=headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    sentences = "; ".join(f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in found[:5])
    return await _problem(_request, Invalid(sentences))


def _failure(problem: Problem) -> EngineFailure:
    status = _status(problem)
    kind = next((name for kind, _, name in STATUSES if isinstance(problem, kind)), "InternalServerError")
    return EngineFailure(error=EngineError(message=problem.detail, type=kind, param=problem.param, code=status))


def _status(problem: Problem) -> int:
    return next((status for kind, status, _ in STATUSES if isinstance(problem, kind)), 500)


class _Keyed:
    """Lets requests without the key reach `/health` only; before a body is read."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                body = json.dumps({"error": "Unauthorized"})
                await Response(body, status_code=401, media_type="application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)
