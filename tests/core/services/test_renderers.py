"""Renderers of bases: loaded once, from the store, and only if they render as on the day of the import."""

from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from core.domain.bases import Base, BaseUnusable
from core.services.renderers import Renderers
from core.storage import bundles
from core.storage.objects import Store
from core.text.chat import Renderer
from tests.support import bluelm, tiny_base


@pytest.fixture
def store() -> Store:
    return Store(MemoryStore())


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Base:
    folder = tiny_base.make(tmp_path / "tiny")
    return Base(
        id="base_1",
        name="tiny",
        fingerprint="f" * 64,
        template_hash=Renderer.load(folder).template_hash,
        context_length=256,
        parameters=1,
        bytes=1,
        files=bundles.upload(folder, store),
        metadata={},
        created_at=0,
    )


def test_a_renderer_is_read_once_and_without_the_weights(base: Base, store: Store, tmp_path: Path) -> None:
    renderers = Renderers(store=store, cache_dir=tmp_path / "cache")
    assert renderers.of(base) is renderers.of(base)
    assert renderers.of(base).prompt([bluelm.turn("user", "x")])[0] == 1
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_base_whose_chat_format_drifted_since_its_import_is_refused(base: Base, store: Store, tmp_path: Path) -> None:
    renderers = Renderers(store=store, cache_dir=tmp_path / "cache")
    with pytest.raises(BaseUnusable, match="import the base again, under another name"):
        renderers.of(replace(base, template_hash="9" * 64))
