"""A channel's number of members is told by itself when it is due.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chats", sa.Column("count_due_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_chats_count_due",
        "chats",
        ["count_due_at"],
        sqlite_where=sa.text("count_due_at IS NOT NULL"),
        postgresql_where=sa.text("count_due_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_chats_count_due", table_name="chats")
    op.drop_column("chats", "count_due_at")
