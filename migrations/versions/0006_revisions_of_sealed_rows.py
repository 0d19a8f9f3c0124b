"""Sealed rows have revisions, and keys an age.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("row_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("place", "row_id", name=op.f("pk_revisions")),
        sqlite_with_rowid=False,
    )
    op.add_column("keys", sa.Column("created_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("keys", "created_at")
    op.drop_table("revisions")
