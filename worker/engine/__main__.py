"""The embedded engine's process: `python -m worker.engine --base-dir DIR --served-name NAME --port N`.

Prints one JSON line, `{"url": …}`, once it serves; logs go to stderr.
"""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Literal

import torch
import uvicorn
from transformers.utils import logging as transformers_logging
from typing_extensions import override

from core import logs
from core.ml import model as models
from core.text.chat import Renderer
from worker.engine.generate import Generation
from worker.engine.models import AdaptedModel
from worker.engine.server import Served, create_app
from worker.engine.shelves import Shelf
from worker.engine.weights import Fit

log = logging.getLogger("worker.engine")

EXIT_BROKEN: Final = 70
SHUTDOWN_S: Final = 5
KEEP_ALIVE_S: Final = 75
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The command line."""

    base_dir: Path
    served_name: str
    host: str
    port: int
    api_key_file: Path | None
    max_adapters: int
    max_lora_rank: int
    max_sequences: int
    max_queue: int
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]


class Announcing(uvicorn.Server):
    """A server that says on stdout where it is, once it is, and ends with status 0 after a signal."""

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            print(json.dumps({"url": f"http://{address}:{port}"}), flush=True)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # uvicorn 0.54 would raise it again at the end, which supervisors read as a crash.
        self._captured_signals.clear()


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line; exits with 2 where it can't be."""
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description=__doc__, allow_abbrev=False)
    parser.add_argument("--base-dir", type=Path, required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001, help="0 picks a free one")
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--max-adapters", type=_positive, default=8)
    parser.add_argument("--max-lora-rank", type=_positive, default=64)
    parser.add_argument("--max-sequences", type=_positive, default=16)
    parser.add_argument("--max-queue", type=_positive, default=256)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto")
    return Arguments(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str]) -> None:
    """Load the base, then serve until told to stop."""
    logs.start()
    arguments = parse(argv)
    transformers_logging.disable_progress_bar()
    # Bound first: a port that is taken shall not be found out after minutes of loading.
    listener = _bound(arguments.host, arguments.port)
    served = _load(arguments)
    thread = threading.Thread(target=_own_the_model, args=(served.generation,), name="model", daemon=True)
    thread.start()
    asyncio.run(_serve(served, listener, thread))


async def _serve(served: Served, listener: socket.socket, thread: threading.Thread) -> None:
    config = uvicorn.Config(
        create_app(served),
        # Named, so that what else is installed changes nothing.
        loop="asyncio",
        http="h11",
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    await Announcing(config).serve(sockets=[listener])
    # While this loop still runs, as the thread hands its events to it.
    served.generation.stop()
    await asyncio.to_thread(thread.join, SHUTDOWN_S)


def _load(arguments: Arguments) -> Served:
    device: models.Device = "cpu"
    if arguments.device == "cuda" or (arguments.device == "auto" and torch.cuda.is_available()):
        device = "cuda"
    dtype = models.dtype_for(device) if arguments.dtype == "auto" else DTYPES[arguments.dtype]
    renderer = Renderer.load(arguments.base_dir)
    model = AdaptedModel(models.load_base(arguments.base_dir, device, dtype))
    shelf = Shelf(arguments.max_adapters)
    generation = Generation(
        model,
        shelf,
        eos_ids=renderer.eos_ids,
        max_sequences=arguments.max_sequences,
        max_queue=arguments.max_queue,
    )
    log.info("serving %s on %s in %s", arguments.served_name, device, dtype)
    return Served(
        name=arguments.served_name,
        folder=arguments.base_dir,
        renderer=renderer,
        vocabulary=model.vocabulary,
        fit=Fit(linears=model.linears, template_hash=renderer.template_hash, max_rank=arguments.max_lora_rank),
        shelf=shelf,
        generation=generation,
        api_key=None if arguments.api_key_file is None else arguments.api_key_file.read_text().strip(),
    )


def _own_the_model(generation: Generation) -> None:
    try:
        generation.run()
    except BaseException:
        # After a CUDA error nothing on the device works any more, and a server without its loop would only hang.
        log.exception("the decode loop ended")
        os._exit(EXIT_BROKEN)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


if __name__ == "__main__":
    main(sys.argv[1:])
