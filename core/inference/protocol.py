"""The part of vLLM's HTTP protocol that we speak, as client and, in the embedded engine, as server.

The engine deals in token ids: the API renders prompts (core/text/chat.py) and decodes answers itself, so that
both engines get the same ids and no user text ever becomes a control token.
`POST /v1/completions` with `return_token_ids`, `POST /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter`,
`GET /v1/models`, `GET /health`. Shapes follow vLLM 0.32; fields we do not send are left out.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field


class StreamOptions(BaseModel):
    """What a stream tells besides tokens: with `include_usage`, a last chunk without choices."""

    model_config = ConfigDict(frozen=True)

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """Body of `POST /v1/completions`. `model` is the base's served name or a loaded adapter's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    prompt: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = 0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = True


class Usage(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    """One (and the only) choice; in a stream, the tokens since the last chunk, `</s>` included but not in `text`."""

    index: int = 0
    text: str = ""
    token_ids: list[int] | None = None
    finish_reason: Literal["stop", "length", "abort"] | None = None


class Completion(BaseModel):
    """A whole answer or, with `stream`, one chunk of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class LoadAdapter(BaseModel):
    """Body of `POST /v1/load_lora_adapter`: a folder in peft's layout, seen by the engine under this path."""

    lora_name: str
    lora_path: str


class UnloadAdapter(BaseModel):
    """Body of `POST /v1/unload_lora_adapter`."""

    lora_name: str


class ModelCard(BaseModel):
    """A served model: `parent` is None for the base; `root` is its path; `max_model_len` counts tokens."""

    id: str
    object: Literal["model"] = "model"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


NOT_FINITE: Final = "LogitsNotFiniteError"
"""The `type` of an error that stands for one answerer's weights; vLLM has none such."""


class EngineError(BaseModel):
    """The `error` member of a failed answer."""

    message: str
    type: str = "error"
    param: str | None = None
    code: int | str | None = None


class EngineFailure(BaseModel):
    """Body of a failed answer or, in a stream that has begun, its last chunk."""

    error: EngineError
