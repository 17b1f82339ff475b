"""The app: routes, middleware, and what starts and stops with it. `run` is the process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from fastapi import FastAPI

from api import faults, openapi, server
from api.meters import Meters
from api.middleware import BodyLimits, Exchange, Gate
from api.rounds import Rounds
from api.routes import ROUTERS
from core import runtime
from core.runtime import Runtime
from core.services import garbage, keys, validations
from core.settings import Settings

PROBES: Final = ("/healthz", "/readyz")
FINISH_EVERY_S: Final = 2.0
SWEEP_EVERY_S: Final = 3600.0
FORM_OVERHEAD_BYTES: Final = 2**20
"""What a multipart body may have beside the file."""


def create_app(settings: Settings) -> FastAPI:
    """Put the app together; nothing is opened before its lifespan begins.

    The lifespan raises SchemaOutdated on a database that is not of this release.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with await asyncio.to_thread(runtime.build, settings) as built:
            await asyncio.to_thread(_seed, built)
            rounds = _rounds(built, asyncio.get_running_loop())
            for one in rounds:
                one.start()
            if built.relay is not None:
                built.relay.start()
            built.usage.start()
            app.state.runtime = built
            yield
            for one in rounds:
                await asyncio.to_thread(one.stop)
            await asyncio.to_thread(built.usage.stop)
            await built.engines.aclose()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.meters = Meters()
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    for router in ROUTERS:
        app.include_router(router)
    faults.install(app)
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimits,
        limit_bytes=settings.max_body_bytes,
        larger=dict.fromkeys(("POST /datasets", "POST /adapters"), settings.max_upload_bytes + FORM_OVERHEAD_BYTES),
    )
    app.add_middleware(Gate, allowed_hosts=settings.allowed_hosts, open_paths=PROBES)
    app.add_middleware(Exchange, meters=app.state.meters)
    return app


def _rounds(rt: Runtime, loop: asyncio.AbstractEventLoop) -> tuple[Rounds, ...]:
    """What every API process does now and then: inspections that uploads did not wait for, and deleted adapters."""
    finish = partial(validations.finish_pending, store=rt.store, database=rt.database)
    return (
        Rounds(finish, name="finisher", pause_s=FINISH_EVERY_S),
        Rounds(partial(_sweep_engines, rt, loop), name="engine sweep", pause_s=SWEEP_EVERY_S),
    )


def _sweep_engines(rt: Runtime, loop: asyncio.AbstractEventLoop) -> None:
    """Take what deleted adapters left from the folder that engines read, and from the engines."""
    gone = garbage.sweep_folders(rt.settings.adapters_dir(), database=rt.database)
    asyncio.run_coroutine_threadsafe(rt.engines.unload(gone), loop).result()


def _seed(rt: Runtime) -> None:
    """Make the text of the admin key file an admin key; it is one already at every start but the first."""
    path = rt.settings.admin_key_file
    if path is not None:
        keys.seed(path.read_text().strip(), database=rt.database, pepper=rt.pepper)


def run() -> None:
    """Serve on the host and port of the settings until told to stop."""
    settings = Settings()
    server.serve(create_app(settings), host=settings.host, port=settings.port)
