"""A source named by a user -> a folder: a folder is itself, a hub id is downloaded. Nothing of it is run."""

import re
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from core.domain.checkpoints import CheckpointNotFound, HubUnavailable

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES: Final = ("*.bin", "*.safetensors", "*.json", "tokenizer.model", "chat_template.jinja", "modeling_bluelm.py")


def find(source: str, *, downloads: Path) -> Path:
    """Return the folder that `source` names.

    Args:
        source: A folder, or a Hugging Face id (`vivo-ai/BlueLM-7B-Chat`).
        downloads: Where downloads are kept; an interrupted one goes on.

    Raises:
        CheckpointNotFound: Neither a folder nor a repository.
        HubUnavailable: The hub does not answer, or this process is offline.
    """
    folder = Path(source)
    if folder.exists() or HUB_ID.fullmatch(source) is None:
        return folder
    try:
        return Path(
            snapshot_download(
                source, local_dir=downloads / source.replace("/", "--"), allow_patterns=list(FILES), token=False
            )
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        raise HubUnavailable(
            f"There is no folder {source!r} here, and the hub can't be reached to download it. "
            "Download the repository elsewhere and give its folder."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointNotFound(
            f"There is no folder {source!r} here, and the hub has no such public repository."
        ) from error
