"""`POST /generate`: a chat completion on a base and any adapter of the caller's."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Request, Response

from api.answers import Manner, respond
from api.bodies import StrictRoute
from api.dependencies import Infers, MetersDep, RuntimeDep
from api.problems import problems
from api.schemas.generations import GenerateRequest, GenerationOut
from core.domain.adapters import AdapterNotFound, InvalidReference
from core.domain.bases import BaseNotFound, BaseUnusable
from core.domain.generation import (
    EngineFailed,
    EngineUnavailable,
    InvalidMessages,
    LogitsNotFinite,
    PromptTooLong,
    QueueFull,
    TemplateMismatch,
)
from core.services import generation
from core.services.generation import Prompt

router: Final = APIRouter(tags=["generate"], route_class=StrictRoute)
FAILURES: Final = (
    InvalidMessages,
    PromptTooLong,
    TemplateMismatch,
    QueueFull,
    EngineUnavailable,
    EngineFailed,
    LogitsNotFinite,
    BaseUnusable,
)
ADAPTER: Final = {
    "summary": "An adapter",
    "value": {"adapter": "huanhuan", "messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 64},
}
BASE: Final = {"summary": "The base alone", "value": {"prompt": "你是谁？", "max_tokens": 64}}
EXAMPLES: Final[dict[str, Any]] = {"base": BASE, "adapter": ADAPTER}
Asked = Annotated[GenerateRequest, Body(openapi_examples=EXAMPLES)]


def prepared(body: Asked, caller: Infers, rt: RuntimeDep) -> Prompt:
    """Find who answers, and render what is asked."""
    target = generation.resolve(body.adapter, caller=caller, database=rt.database, default_base=rt.settings.base)
    return generation.prepare(target, body.turns(), body.sampling(), renderers=rt.renderers)


@router.post(
    "/generate",
    summary="Ask a base or an adapter",
    response_model=GenerationOut,
    responses=problems(AdapterNotFound, BaseNotFound, InvalidReference, *FAILURES),
)
async def generate(
    body: Asked,
    prompt: Annotated[Prompt, Depends(prepared)],
    caller: Infers,
    rt: RuntimeDep,
    meters: MetersDep,
    request: Request,
) -> Response:
    """Complete a conversation on a base, with an adapter or alone.

    `adapter` is any reference: `ad_…`, `name` (newest), `name@N`, `name@alias`, `job_…@latest`. What was trained with a
    system prompt is asked with it, unless `messages` starts with a system turn of its own (an empty one means none);
    the header `x-system-prompt` says which was used. With `stream` the answer comes as server-sent events in OpenAI's
    shape, the last being `data: [DONE]`.
    """
    pieces = generation.stream(prompt, caller=caller, engines=rt.engines, usage=rt.usage)
    manner = Manner(stream=body.stream, native=True)
    return await respond(prompt, pieces, manner=manner, request=request, meters=meters)
