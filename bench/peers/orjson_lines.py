"""The least that reads JSONL: `orjson.loads` of each line of stdin, nothing kept, nothing looked at.

`python -m bench.peers.orjson_lines < FILE`. Says how many rows there were, in the shape of an inspection's report.
"""

import gc
import json
from typing import Final

import orjson

READ_BYTES: Final = 2**18


def main() -> None:
    """Parse stdin."""
    gc.disable()  # as the inspecting process does
    rows = 0
    with open(0, "rb", buffering=READ_BYTES) as lines:
        for line in lines:
            orjson.loads(line)
            rows += 1
    print(json.dumps({"summary": {"rows": rows}}))


if __name__ == "__main__":
    main()
