"""DEV PLACEHOLDER, never committed."""
import json
from core.domain.datasets import Conversation, Turn
def parse(chunks):
    for n, line in enumerate(b"".join(chunks).decode().splitlines(), 1):
        r = json.loads(line)
        yield Conversation((Turn("user", r["instruction"]+r.get("input","")), Turn("assistant", r["output"])), n)
