"""The base of all tables, one naming convention, and the table of facts about this installation."""

from datetime import datetime

from sqlalchemy import LargeBinary, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.infra.database.columns import Timestamp

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class Row(DeclarativeBase):
    """One class a table: typed columns for Core statements; the ORM's session is not used."""

    metadata = METADATA
    type_annotation_map = {datetime: Timestamp, bytes: LargeBinary, str: Text}  # noqa: RUF012 - SQLAlchemy's API


class ServerStateRow(Row):
    """Facts about this installation: `epoch`, the salt of the master key."""

    __tablename__ = "server_state"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
