"""One renderer a base, kept: reading a tokenizer takes a while, rendering a prompt does not."""

import threading
from pathlib import Path
from typing import Final

from core.domain.bases import Base, BaseUnusable
from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.storage import bundles
from core.storage.objects import Store
from core.text.chat import Renderer

KEPT: Final = 8


class Renderers:
    """Loads a base's text files (never its weights) into `cache_dir`, once a fingerprint. Threads may share it."""

    def __init__(self, *, store: Store, cache_dir: Path) -> None:
        self._store = store
        self._cache_dir = cache_dir
        self._loaded: dict[str, Renderer] = {}
        self._lock = threading.Lock()

    def of(self, base: Base) -> Renderer:
        """Give the base's renderer.

        Raises:
            BaseUnusable: Its files are missing, damaged, or of a kind not known here, or they render chats otherwise
                than when the base was imported: adapters name the format of that day.
            Unavailable: The store does not answer.
        """
        with self._lock:
            found = self._loaded.pop(base.fingerprint, None) or self._load(base)
            self._loaded[base.fingerprint] = found
            while len(self._loaded) > KEPT:
                del self._loaded[next(iter(self._loaded))]
        return found

    def folder(self, base: Base) -> Path:
        """Bring the base's text files here, verified.

        Raises:
            BrokenBundle: Stored bytes are missing or changed.
            Unavailable: The store does not answer.
        """
        files = tuple(file for file in base.files if not file.name.endswith(".safetensors"))
        return bundles.fetch(files, self._cache_dir / base.fingerprint, self._store)

    def _load(self, base: Base) -> Renderer:
        try:
            renderer = Renderer.load(self.folder(base))
        except (DamagedCheckpoint, UnsupportedCheckpoint) as error:
            raise BaseUnusable(f"The files of base {base.name} can't be used: {error.detail}") from error
        if renderer.template_hash != base.template_hash:
            raise BaseUnusable(
                f"This version renders chats of base {base.name} otherwise than the one that imported it; import the "
                "base again, under another name, and train its adapters again."
            )
        return renderer
