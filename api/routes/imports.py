"""An adapter on its way in: a form of fields and two files, known by their file names; never kept here."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.bodies import WrongContentType, media_type
from api.forms import Fields, MalformedForm, Multipart, Part
from api.routes.uploads import InvalidUpload, metadata_of, refuse_encoded
from core.domain.adapters import broken
from core.domain.imports import AdapterImport
from core.domain.loras import CONFIG, MAX_CONFIG_BYTES, WEIGHTS
from core.domain.loraweights import SAVE_AGAIN

ORDER: Final = f"Send the fields and {CONFIG} first and {WEIGHTS} last, so that it can be judged while it arrives"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What a form says before its weights come: its fields, and the whole adapter_config.json."""

    said: AdapterImport
    config: bytes


class AdapterForm:
    """A form with an adapter. `read` first, which stops where the weights begin; then `weights` flow.

    Args:
        request: Nothing of its body has been read.

    Raises:
        WrongContentType: Another media type, or a content coding.
        InvalidUpload: Something is said in the address, where nobody would hear it.
        MalformedForm: A form without a boundary.
    """

    def __init__(self, request: Request) -> None:
        for name in request.query_params:
            raise InvalidUpload(f"Send {name[:60]!r} as a field of the form, not in the address.", param=name[:60])
        refuse_encoded(request)
        if media_type(request) != "multipart/form-data":
            raise WrongContentType(
                f"Send a form: curl -F name=persona -F file=@{CONFIG} -F file=@{WEIGHTS}.", param="content-type"
            )
        self._parts = Multipart(request).parts()
        self._weights: Part | None = None

    async def read(self) -> Announced:
        """Read everything before the weights.

        Raises:
            MalformedForm: The form is torn, out of order, or lacks a file or has it twice.
            BrokenAdapter: There is another file in it.
            InvalidUpload, RequestValidationError: A field is not acceptable.
        """
        fields, config = Fields(), None
        async for part in self._parts:
            if part.filename is None and part.name != "file":
                await fields.take(part)
            elif _named(part) == CONFIG:
                if config is not None:
                    raise MalformedForm(f"The form has {CONFIG} twice.", param="file")
                config = await part.content(limit_bytes=MAX_CONFIG_BYTES)
            elif config is None:
                raise MalformedForm(f"{WEIGHTS} comes before {CONFIG}. {ORDER}.", param="file")
            else:
                self._weights = part
                return Announced(said=_said(fields), config=config)
        lacking = CONFIG if config is None else WEIGHTS
        raise MalformedForm(f"The form has no part named 'file' with the file name {lacking}.", param="file")

    async def weights(self) -> AsyncIterator[bytes]:
        """Yield the weights as they come; ends when the whole form has been read.

        Raises:
            MalformedForm: The form is torn, or goes on after the weights.
        """
        assert self._weights is not None  # noqa: S101  (read before)
        async for chunk in self._weights.chunks():
            yield chunk
        async for part in self._parts:
            raise MalformedForm(f"The part {(part.filename or part.name)[:100]!r} comes too late. {ORDER}.")


def _named(part: Part) -> str:
    """The file name of a part with a file; one of the two that an adapter has."""
    if part.name != "file":
        raise MalformedForm(
            f"The file in {part.name[:100]!r} is not looked for there; name both parts 'file'.", param=part.name[:100]
        )
    if part.filename == "adapter_model.bin":
        hint = f"Old peft writes it; save it as safetensors where you trust it: {SAVE_AGAIN}"
        raise broken("pickle", "adapter_model.bin is a pickle, which is never opened here.", field="file", hint=hint)
    if part.filename not in {CONFIG, WEIGHTS}:
        said = f"{(part.filename or '')[:100]!r} is no file of an adapter."
        raise broken("unexpected_file", said, field="file", hint=f"Send {CONFIG} and {WEIGHTS}, under these names.")
    return part.filename


def _said(fields: Fields) -> AdapterImport:
    values = {name: value for name, value in fields.values.items() if name != "metadata"}
    metadata = metadata_of(fields.values.get("metadata"))
    try:
        return AdapterImport.model_validate(values | {"metadata": metadata})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([fault | {"loc": ("body", *fault["loc"])} for fault in found]) from error
