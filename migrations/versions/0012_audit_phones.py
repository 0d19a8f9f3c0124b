"""Events before sign-in are sealed under a key of the phone number, a day.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_phones",
        sa.Column("id", _ID, nullable=False),
        sa.Column("phone_index", sa.LargeBinary(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_phones")),
        sa.UniqueConstraint("phone_index", "day", name=op.f("uq_audit_phones_phone_index_day")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_phones_day"), "audit_phones", ["day"])
    op.add_column("audit_events", sa.Column("phone_id", sa.BigInteger(), nullable=True))
    op.create_index("ix_audit_events_phone", "audit_events", ["phone_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_audit_events_phone", "audit_events")
    op.drop_column("audit_events", "phone_id")
    op.drop_table("audit_phones")
