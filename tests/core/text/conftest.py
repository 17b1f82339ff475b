"""Bases that the tests of text read: one BlueLM, and foreign Llamas with templates of their own."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from core.ml.convert import convert
from core.text.chat import Renderer
from tests.support import bluelm


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import a tiny BlueLM."""
    folder = tmp_path_factory.mktemp("text")
    source = bluelm.write(folder / "source")
    return convert(source, folder / "base", name="tiny", progress=lambda done, total: None).path


@pytest.fixture(scope="session")
def renderer(base: Path) -> Renderer:
    """Load the tiny BlueLM's renderer."""
    return Renderer.load(base)


CHATML = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def foreign(folder: Path, template: str | None) -> Path:
    """Lay the text files of a Llama with a byte-level tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: id_ for id_, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 64}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.token_to_id("<|im_end|>")}))
    bluelm.dump(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "chat_template": template})
    return folder
