"""The routes, one module a noun; `ROUTERS` is what the app serves."""
