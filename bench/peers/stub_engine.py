"""An engine that costs as little as one can: vLLM's `/v1/models` and `/v1/completions`, the same ids at once.

`python -m bench.peers.stub_engine PORT`. Plain ASGI on uvicorn, so that it is never what limits the row: no parsing
of the request but a look for `"stream":true`, and one event with all ids where a real engine sends one a token.
"""

import json
import sys
from typing import Final

import uvicorn
from starlette.types import Receive, Scope, Send

BASE: Final = "bluelm-nano"
IDS: Final = (310, 311, 312, 313, 314, 315, 316, 2)
"""Seven pieces and `</s>`."""

_CHOICE: Final = {"index": 0, "text": "", "token_ids": IDS, "finish_reason": "stop"}
_USAGE: Final = {"prompt_tokens": 8, "completion_tokens": len(IDS), "total_tokens": 8 + len(IDS)}
_ANSWER: Final = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": BASE,
        "choices": [_CHOICE],
        "usage": _USAGE,
    }
).encode()
_STREAM: Final = b"data: " + _ANSWER + b"\n\ndata: [DONE]\n\n"
_MODELS: Final = json.dumps({"object": "list", "data": [{"id": BASE, "object": "model", "parent": None}]}).encode()
_ANSWERS: Final = {"/v1/models": _MODELS, "/health": b"{}"}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    kind, answer = b"application/json", _ANSWERS.get(scope["path"], _ANSWER)
    if answer is _ANSWER and b'"stream":true' in body.replace(b" ", b""):
        kind, answer = b"text/event-stream", _STREAM
    headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", ws="none", access_log=False)
