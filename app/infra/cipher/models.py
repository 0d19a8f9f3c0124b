"""The table of wrapped data keys."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.tables import Row


class KeyRow(Row):
    """`id` is the owner: `user:5`, `chat:42`, `server`. Deleting an owner's rows shreds all that it
    sealed. `created_at` is empty for versions that are older than the column.
    """

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    kek_version: Mapped[int]
    wrapped: Mapped[bytes]
    created_at: Mapped[datetime | None]
