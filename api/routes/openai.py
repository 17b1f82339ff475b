"""OpenAI's surface over the same bases, adapters and pipeline: `OpenAI(base_url=".../v1")` works unmodified."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Request, Response

from api.answers import Manner, respond
from api.bodies import StrictRoute
from api.dependencies import Infers, MetersDep, RuntimeDep
from api.problems import problems
from api.routes.generations import FAILURES
from api.schemas.generations import ChatCompletionOut, ChatRequest, ModelListOut, ModelOut
from core.domain.generation import ModelNotFound, Target
from core.services import generation
from core.services.generation import Prompt

router: Final = APIRouter(prefix="/v1", tags=["openai"], route_class=StrictRoute)
EXAMPLES: Final[dict[str, Any]] = {
    "adapter": {
        "summary": "An adapter",
        "value": {"model": "huanhuan", "messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 64},
    }
}
Asked = Annotated[ChatRequest, Body(openapi_examples=EXAMPLES)]


@router.get("/models", summary="Bases and adapters as models", responses=problems(openai=True))
def models(caller: Infers, rt: RuntimeDep) -> ModelListOut:
    """List every base and every adapter of your project; each `id` can be sent as `model`."""
    targets = generation.targets(caller=caller, database=rt.database)
    return ModelListOut(data=[_shown(target, owner=caller.project) for target in targets])


@router.get("/models/{model:path}", summary="One model", responses=problems(ModelNotFound, openai=True))
def model(
    model: Annotated[str, Path(max_length=200, openapi_examples={"adapter": {"value": "huanhuan@1"}})],
    caller: Infers,
    rt: RuntimeDep,
) -> ModelOut:
    """Find a model by any name that can be sent as `model`; the answer has its immutable one."""
    target = generation.resolve_model(model, caller=caller, database=rt.database)
    return _shown(target, owner=caller.project)


def prepared(body: Asked, caller: Infers, rt: RuntimeDep) -> Prompt:
    """Find who answers, and render what is asked."""
    target = generation.resolve_model(body.model, caller=caller, database=rt.database)
    return generation.prepare(target, body.turns(), body.sampling(), renderers=rt.renderers)


@router.post(
    "/chat/completions",
    summary="Chat completion",
    response_model=ChatCompletionOut,
    responses=problems(ModelNotFound, *FAILURES, openai=True),
)
async def chat(
    body: Asked,
    prompt: Annotated[Prompt, Depends(prepared)],
    caller: Infers,
    rt: RuntimeDep,
    meters: MetersDep,
    request: Request,
) -> Response:
    """Complete a conversation; `model` is a base's name or any reference of an adapter.

    Left-out sampling fields have the defaults of `POST /generate`. What OpenAI serves and this service does not
    (tools, several choices, log probabilities) is refused by name, never ignored. The headers `x-adapter-id`,
    `x-adapter-version`, `x-adapter-sha256` and `x-base-revision` say who answered.
    """
    pieces = generation.stream(prompt, caller=caller, engines=rt.engines, usage=rt.usage)
    manner = Manner(stream=body.stream, native=False, include_usage=body.include_usage)
    return await respond(prompt, pieces, manner=manner, request=request, meters=meters)


def _shown(target: Target, *, owner: str) -> ModelOut:
    base, adapter = target.base, target.adapter
    if adapter is None:
        return ModelOut(id=base.name, created=base.created_at, owned_by="bluelora", root=base.name, parent=None)
    return ModelOut(id=adapter.reference, created=adapter.created_at, owned_by=owner, root=base.name, parent=base.name)
