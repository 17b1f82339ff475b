"""Data sets get token counts, filled in once; those that are there are counted like new ones."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("tokens", sa.JSON(none_as_null=True)))
    op.add_column(
        "datasets", sa.Column("tokens_status", sa.String(length=12), nullable=False, server_default="pending")
    )
