"""The table of deleted accounts whose traces in chats are still being erased."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.tables import Row
from app.kernel.ids import UserId


class ErasureRow(Row):
    """What is still to be erased of one account. Progress lies in the rows that are erased; this one goes
    with the last of them. `due_at`: when a worker may take it up; one that works on it moves it on.
    """

    __tablename__ = "erasures"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy's API

    user_id: Mapped[UserId] = mapped_column(
        BigInteger, ForeignKey("users.id"), primary_key=True, autoincrement=False
    )
    keep_messages: Mapped[bool]
    asked_at: Mapped[datetime]
    due_at: Mapped[datetime] = mapped_column(index=True)
