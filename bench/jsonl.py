"""Data sets of any size in the tutorial's shape: its lengths, random Chinese characters, no two rows alike.

`python -m bench.jsonl URL PATH` uploads a file by `POST URL` as a client on this machine does; the key comes by
BENCH_API_KEY, and the answer's status and body are printed. A process of its own, so that nobody who times the
service shares an interpreter with the sender.
"""

import http.client
import json
import os
import random
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

LENGTHS: Final = Path(__file__).with_name("lengths.json")
PERSONA_CHARACTERS: Final = 20
"""What the lengths count for a prompt that the rows don't have."""
SENT_BYTES: Final = 2**18
FIRST_CHARACTER, CHARACTERS = 0x4E00, 3000
WAIT_S: Final = 120.0


def write(path: Path, *, size: int, seed: int) -> None:
    """Write at least `size` bytes of whole lines."""
    templates, written, number = _templates(seed), 0, 0
    with path.open("wb") as file:
        while written < size:
            lines = [template % (number + n) for n, template in enumerate(templates)]
            block, kept = b"".join(lines), written
            if kept + len(block) > size:
                block = block[: block.index(b"\n", size - kept - 1) + 1]
            written += file.write(block)
            number += len(lines)


def _templates(seed: int) -> list[bytes]:
    """One line for each of the tutorial's rows, with a place for a number that tells it from its copies."""
    source = random.Random(seed)

    def text(length: int) -> str:
        return "".join(chr(FIRST_CHARACTER + source.randrange(CHARACTERS)) for _ in range(max(1, length)))

    return [
        json.dumps(
            {"instruction": text(prompt - PERSONA_CHARACTERS), "input": "", "output": f"%d{text(answer)}"},
            ensure_ascii=False,
        ).encode()
        + b"\n"
        for prompt, answer in json.loads(LENGTHS.read_text())
    ]


def send(url: str, path: Path, *, key: str) -> tuple[int, str]:
    """Upload a file as a raw body; gives status and body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, blocksize=SENT_BYTES, timeout=WAIT_S)
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(path.stat().st_size),
    }
    with path.open("rb") as file:
        connection.request("POST", f"{parts.path}?{parts.query}", body=file, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


if __name__ == "__main__":
    status, body = send(sys.argv[1], Path(sys.argv[2]), key=os.environ["BENCH_API_KEY"])
    print(json.dumps({"status": status, "body": body}, ensure_ascii=False))
