"""The app: routes, middleware, and what starts and stops with it. `run` is the process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from fastapi import FastAPI

from api import faults, openapi, server
from api.finisher import Finisher
from api.meters import Meters
from api.middleware import BodyLimits, Exchange, Gate
from api.routes import ROUTERS
from core import runtime
from core.runtime import Runtime
from core.services import counts, keys, validations
from core.settings import Settings

PROBES: Final = ("/healthz", "/readyz")
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
            finishers = _finishers(built)
            for finisher in finishers:
                finisher.start()
            if built.relay is not None:
                built.relay.start()
            built.usage.start()
            app.state.runtime = built
            yield
            for finisher in finishers:
                await asyncio.to_thread(finisher.stop)
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
        larger={"POST /datasets": settings.max_upload_bytes + FORM_OVERHEAD_BYTES},
    )
    app.add_middleware(Gate, allowed_hosts=settings.allowed_hosts, open_paths=PROBES)
    app.add_middleware(Exchange, meters=app.state.meters)
    return app


def _finishers(rt: Runtime) -> tuple[Finisher, ...]:
    """One thread for inspections and one for token counts, which take longer and are waited for by nobody."""
    inspecting = partial(validations.finish_pending, store=rt.store, database=rt.database, lease_s=rt.settings.lease_s)
    counting = partial(
        counts.count_pending,
        store=rt.store,
        database=rt.database,
        renderers=rt.renderers,
        default_base=rt.settings.base,
        lease_s=rt.settings.lease_s,
    )
    return Finisher("inspections", finish=inspecting), Finisher("counts", finish=counting)


def _seed(rt: Runtime) -> None:
    """Make the text of the admin key file an admin key; it is one already at every start but the first."""
    path = rt.settings.admin_key_file
    if path is not None:
        keys.seed(path.read_text().strip(), database=rt.database, pepper=rt.pepper)


def run() -> None:
    """Serve on the host and port of the settings until told to stop."""
    settings = Settings()
    server.serve(create_app(settings), host=settings.host, port=settings.port)
