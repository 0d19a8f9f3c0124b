"""Rows of the record prove who wrote them.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit_events", sa.Column("mac", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("audit_events", "mac")
