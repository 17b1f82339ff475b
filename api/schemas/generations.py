"""Chat completions on the wire: what is asked on both surfaces, and OpenAI's shapes of the answer."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from api.schemas.adapters import AdapterRefOut
from core.domain.generation import Message, Sampling
from core.domain.written import Written

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Messages = Annotated[list[Message], Field(min_length=1, max_length=1000)]
MaxTokens = Annotated[int, Field(ge=1, le=1_048_576)]


class GenerateRequest(Sampling):
    """Body of `POST /generate`. Without `adapter` the base answers alone; one of `messages` and `prompt` is needed.

    `max_length` is read as `max_tokens`: it counts new tokens.
    """

    adapter: Name | None = None
    messages: Messages | None = None
    prompt: Annotated[str, StringConstraints(max_length=1_000_000)] | None = None
    max_length: MaxTokens | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _say_one_thing(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise _fault("contradiction", "messages", "send either messages or prompt, and not both")
        if self.max_length is not None and "max_tokens" in self.model_fields_set:
            raise _fault("contradiction", "max_length", "max_length is another name of max_tokens; send one of them")
        return self

    def turns(self) -> list[Message]:
        """The conversation, whichever way it was sent."""
        return self.messages or [Message(role="user", content=self.prompt or "")]

    def sampling(self) -> Sampling:
        """How to choose tokens."""
        return _sampling(self, max_tokens=self.max_length)


# What OpenAI's clients may send that means nothing here.
IGNORED: Final = frozenset(
    {
        "user",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "metadata",
        "parallel_tool_calls",
    }
)
# What would change the answer and is not served; the values beside them ask for nothing.
UNSERVED: Final[Mapping[str, tuple[object, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "min_p": (0,),
    "integrations": ([],),
}


class ChatMessage(Written):
    """One message as OpenAI's clients send it: `developer` means system; parts of text are joined."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=1_000_000)]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _forget_nulls(cls, data: Any) -> Any:  # noqa: ANN401  (whatever was sent)
        return _without_nulls(data)

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:  # noqa: ANN401  (whatever was sent)
        if not isinstance(content, list):
            return content
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        if len(texts) != len(content):
            raise PydanticCustomError("unsupported_parameter", "content takes a text or parts of type text")
        return "".join(texts)

    def message(self) -> Message:
        """The same as we know it."""
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class StreamOptions(Written):
    """What a stream shall carry besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Sampling):
    """Body of `POST /v1/chat/completions`. `model` is a base's name or any reference of an adapter."""

    model: Name
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: MaxTokens | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle_foreign_fields(cls, data: Any) -> Any:  # noqa: ANN401  (whatever was sent)
        if not isinstance(data, dict):
            return data
        data = {name: value for name, value in _without_nulls(data).items() if name not in IGNORED}
        for name in UNSERVED.keys() & data.keys():
            if data.pop(name) not in UNSERVED[name]:
                raise _fault("unsupported_parameter", name, f"{name} is not served here; leave it out")
        if isinstance(data.get("stop"), str):
            data["stop"] = [data["stop"]]
        return data

    @model_validator(mode="after")
    def _say_one_thing(self) -> Self:
        if self.max_completion_tokens is not None and "max_tokens" in self.model_fields_set:
            raise _fault("contradiction", "max_completion_tokens", "max_tokens means the same; send one of them")
        return self

    def turns(self) -> list[Message]:
        """The conversation as we know it."""
        return [message.message() for message in self.messages]

    def sampling(self) -> Sampling:
        """How to choose tokens."""
        return _sampling(self, max_tokens=self.max_completion_tokens)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class AnswerOut(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChoiceOut(BaseModel):
    """The one choice. `finish_reason` is `stop` (an end token or a stop string) or `length`."""

    index: int = 0
    message: AnswerOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class UsageOut(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletionOut(BaseModel):
    """A whole answer in OpenAI's shape."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceOut]
    usage: UsageOut


class GenerationOut(ChatCompletionOut):
    """The same, with the adapter that answered; null means the base alone."""

    adapter: AdapterRefOut | None


class DeltaOut(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoiceOut(BaseModel):
    """The one choice of a chunk."""

    index: int = 0
    delta: DeltaOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChunkOut(BaseModel):
    """One chunk of a stream in OpenAI's shape."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoiceOut]
    usage: UsageOut | None = None


class ModelOut(BaseModel):
    """A base or an adapter as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: str | None


class ModelListOut(BaseModel):
    """Every model that the caller may name, in one page."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


def _sampling(asked: Sampling, *, max_tokens: int | None) -> Sampling:
    """Keep what was sent and nothing else, so that a limit that was not sent can still give way to the context."""
    sent = {name: getattr(asked, name) for name in Sampling.model_fields if name in asked.model_fields_set}
    return Sampling(**(sent if max_tokens is None else sent | {"max_tokens": max_tokens}))


def _without_nulls(data: Any) -> Any:  # noqa: ANN401  (whatever was sent)
    """Drop null members: OpenAI's clients send back what they received, absent fields as nulls."""
    return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def _fault(code: str, field: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(code, "{text}", {"text": message, "name": field})
