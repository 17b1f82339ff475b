"""The `bluelora` command: starts processes by name, else a REST client."""
