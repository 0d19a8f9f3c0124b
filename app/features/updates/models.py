"""Tables of the log."""

from datetime import datetime

from sqlalchemy import BigInteger, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.columns import Json
from app.infra.database.tables import Row


class ScopeRow(Row):
    """The number of a scope's newest update. This row is the lock of a chat or user: there is no other.

    `removals`, the removal revision, counts memberships that ended without an update in the scope that
    everyone sees: leaving a channel is told in user scopes alone.
    """

    __tablename__ = "scopes"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    removals: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class UpdateRow(Row):
    """One durable update. Holds references only: nothing in it is personal or a message's text."""

    __tablename__ = "updates"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    scope_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[str]
    subject_id: Mapped[int | None] = mapped_column(BigInteger)
    data: Mapped[object | None] = mapped_column(Json)
    created_at: Mapped[datetime]
