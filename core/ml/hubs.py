"""Model hubs: what files a repository holds at one revision, with sizes and hashes. Downloads nothing.

Sources: https://huggingface.co/docs/hub/api (`GET /api/models/{id}/revision/{revision}?blobs=true`), and modelscope 1.40,
modelscope/hub/api.py (`GET /api/v1/models/{id}/repo/files`); an unknown revision is a list of null there, not an error.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, Field, ValidationError

from core.domain.checkpoints import CheckpointNotFound, DamagedCheckpoint, HubUnavailable
from core.ml.records import Origin

Hub = Literal["hf", "modelscope"]
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
SMALL: Final = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "modeling_bluelm.py",
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
})  # fmt: skip
WEIGHTS: Final = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)", re.ASCII)
Shape = TypeVar("Shape", bound=BaseModel)
UNSEEN: Final = frozenset({401, 403, 404})
"""How hubs answer for what is not there, or not public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository; one of the hashes is known (`git_sha1` is that of a git blob)."""

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The files that an import reads, the small ones first; nothing else of the repository is listed."""

    origin: Origin
    files: tuple[RemoteFile, ...]

    @property
    def weight_bytes(self) -> int:
        """Count the bytes of the weights, which the base will have too."""
        return sum(file.bytes for file in self.files if WEIGHTS.fullmatch(file.name))


class _Blob(BaseModel):
    """A Hugging Face file; `lfs` is there for large ones."""

    class Lfs(BaseModel):
        sha256: str = Field(pattern="^[0-9a-f]{64}$")
        size: int = Field(ge=0)

    rfilename: str
    size: int = Field(ge=0)
    blob_id: str = Field(alias="blobId", pattern="^[0-9a-f]{40}$")
    lfs: Lfs | None = None


class _Model(BaseModel):
    sha: str = Field(pattern="^[0-9a-f]{40}$")
    siblings: list[_Blob]


class _Entry(BaseModel):
    """A ModelScope file or folder; `Revision` is the commit that last changed it."""

    path: str = Field(alias="Path")
    kind: str = Field(alias="Type")
    size: int = Field(alias="Size", default=0, ge=0)
    sha256: str = Field(alias="Sha256", default="", pattern="^([0-9a-f]{64})?$")


class _Listing(BaseModel):
    class Data(BaseModel):
        files: list[_Entry] | None = Field(alias="Files")

    data: Data = Field(alias="Data")


def is_id(source: str) -> bool:
    """Say whether a text has the form of a hub id."""
    return HUB_ID.fullmatch(source) is not None


def listing(client: httpx.Client, *, hub: Hub, repository: str, revision: str | None) -> Repository:
    """List what an import reads of a public repository.

    Args:
        client: Follows redirects.
        hub: Which one; HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors.
        repository: Its id.
        revision: A branch, tag or commit; None is the default branch.

    Raises:
        CheckpointNotFound: No public repository of this id, no such revision, or no weights in it.
        HubUnavailable: The hub does not answer, or this process is offline.
        DamagedCheckpoint: The hub lists a file without a hash.
    """
    commit, files = _HUBS[hub](client, repository, revision)
    wanted = _wanted({file.name: file for file in files})
    if not any(WEIGHTS.fullmatch(file.name) for file in wanted):
        raise CheckpointNotFound(f"{repository} on {hub} has no weights that can be imported (.bin or .safetensors).")
    if unsure := [file.name for file in wanted if file.sha256 is None and file.git_sha1 is None]:
        raise DamagedCheckpoint(f"{hub} gives no hash for {', '.join(unsure[:3])}, so a download could not be checked.")
    lines = "".join(f"{file.name} {file.bytes} {file.sha256 or file.git_sha1}\n" for file in wanted)
    content = hashlib.sha256(lines.encode()).hexdigest()
    return Repository(origin=Origin(hub=hub, id=repository, revision=commit, content=content), files=wanted)


def _wanted(files: Mapping[str, RemoteFile]) -> tuple[RemoteFile, ...]:
    weights = [name for name in files if WEIGHTS.fullmatch(name)]
    # Many repositories hold the same weights twice.
    if any(name.endswith(".safetensors") for name in weights):
        weights = [name for name in weights if name.endswith(".safetensors")]
    names = [*sorted(SMALL & files.keys()), *sorted(weights)]
    return tuple(files[name] for name in names)


def _hugging_face(client: httpx.Client, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _unreachable(repository, "hf")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    at = f"{endpoint}/api/models/{repository}/revision/{quote(revision or 'main', safe='')}"
    model = _ask(client, at, {"blobs": "true"}, shape=_Model, repository=repository, hub="hf")
    return model.sha, [
        RemoteFile(
            name=blob.rfilename,
            bytes=blob.lfs.size if blob.lfs else blob.size,
            sha256=blob.lfs.sha256 if blob.lfs else None,
            git_sha1=None if blob.lfs else blob.blob_id,
            url=f"{endpoint}/{repository}/resolve/{model.sha}/{quote(blob.rfilename)}",
        )
        for blob in model.siblings
    ]


def _modelscope(client: httpx.Client, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/")
    at, branch = f"{endpoint}/api/v1/models/{repository}/repo", revision or "master"
    asked = {"Revision": branch, "Recursive": "True"}
    found = _ask(client, f"{at}/files", asked, shape=_Listing, repository=repository, hub="modelscope")
    if found.data.files is None:
        raise CheckpointNotFound(f"{repository} on modelscope has no revision {branch[:60]!r}.")
    return branch, [
        RemoteFile(
            name=entry.path,
            bytes=entry.size,
            sha256=entry.sha256 or None,
            git_sha1=None,
            url=f"{at}?Revision={quote(branch, safe='')}&FilePath={quote(entry.path, safe='')}",
        )
        for entry in found.data.files
        if entry.kind != "tree"
    ]


_HUBS: Final[Mapping[Hub, Callable[[httpx.Client, str, str | None], tuple[str, list[RemoteFile]]]]] = {
    "hf": _hugging_face,
    "modelscope": _modelscope,
}


def _ask(
    client: httpx.Client, url: str, parameters: Mapping[str, str], *, shape: type[Shape], repository: str, hub: Hub
) -> Shape:
    try:
        answer = client.get(url, params=parameters)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise _unreachable(repository, hub) from error
    if answer.status_code in UNSEEN:
        raise CheckpointNotFound(
            f"There is no folder {repository!r} here, and {hub} has no such public repository or revision."
        )
    if answer.status_code != 200:
        raise HubUnavailable(f"{hub} answered {answer.status_code} for the files of {repository}; try again later.")
    try:
        return shape.model_validate_json(answer.content)
    except ValidationError as error:
        raise HubUnavailable(
            f"{hub} answered for {repository} with something that is no list of files; is the endpoint right?"
        ) from error


def _unreachable(repository: str, hub: Hub) -> HubUnavailable:
    return HubUnavailable(
        f"There is no folder {repository!r} here, and {hub} can't be reached to download it. "
        "Download the repository elsewhere and give its folder, or name the other hub (--hub)."
    )
