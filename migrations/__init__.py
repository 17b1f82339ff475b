"""Alembic migrations, and the command that runs them."""
