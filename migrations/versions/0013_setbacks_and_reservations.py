"""How often work on files was put off, and the room that uploads under way have reserved.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "uploads", sa.Column("setbacks", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "file_work", sa.Column("setbacks", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("doomed_objects", sa.Column("reserved", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("doomed_objects", "reserved")
    op.drop_column("file_work", "setbacks")
    op.drop_column("uploads", "setbacks")
