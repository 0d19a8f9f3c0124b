"""Deleted accounts that are still being erased.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("keep_messages", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_erasures_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_erasures")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_erasures_due_at"), "erasures", ["due_at"], unique=False)


def downgrade() -> None:
    op.drop_table("erasures")
