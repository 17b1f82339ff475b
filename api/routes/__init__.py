"""The routes, one module a noun; `ROUTERS` is what the app serves."""

from typing import Final

from fastapi import APIRouter

from api.routes import adapters, bases, datasets, docs, generations, health, jobs, keys, openai

ROUTERS: Final[tuple[APIRouter, ...]] = (
    datasets.router,
    jobs.router,
    adapters.router,
    bases.router,
    keys.router,
    generations.router,
    openai.router,
    health.router,
    docs.router,
)
