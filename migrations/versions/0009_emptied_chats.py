"""Chats that were emptied and whose files are still being taken away.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "emptied_chats",
        sa.Column("chat_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("after_seq", sa.BigInteger(), nullable=False),
        sa.Column("upto", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_emptied_chats_chat_id")),
        sa.PrimaryKeyConstraint("chat_id", name=op.f("pk_emptied_chats")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("emptied_chats")
