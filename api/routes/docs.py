"""`/docs`: Swagger UI over our own openapi.json, its files served from here, since the network may have no way out."""

from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

router: Final = APIRouter(include_in_schema=False)
ASSETS: Final = Path(str(files("fastapi_offline"))) / "static"
Asset = Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]


@router.get("/docs")
async def page() -> HTMLResponse:
    """Show every route with examples that run."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="BlueLoRA",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )


@router.get("/docs/{asset}")
async def asset(asset: Asset) -> FileResponse:
    """Serve one file of Swagger UI."""
    return FileResponse(ASSETS / asset, headers={"Cache-Control": "public, max-age=86400"})
