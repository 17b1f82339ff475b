"""Alembic's entry: runs migrations on the connection that `migrations.upgrading` opened and locked."""

from alembic import context

from core.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
