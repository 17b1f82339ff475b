"""Write openapi.json at the root: the committed contract, which a test holds against the code."""

import json
from pathlib import Path

from api.main import create_app
from core.settings import Settings

TARGET = Path(__file__).parents[1] / "openapi.json"


def text() -> str:
    """The document as it is committed."""
    return json.dumps(create_app(Settings()).openapi(), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
