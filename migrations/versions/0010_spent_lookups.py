"""How many numbers deleted accounts asked about today, by their own number.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spent_lookups",
        sa.Column("owner_index", sa.LargeBinary(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("spent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner_index", name=op.f("pk_spent_lookups")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_spent_lookups_day"), "spent_lookups", ["day"])


def downgrade() -> None:
    op.drop_table("spent_lookups")
