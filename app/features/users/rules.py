"""What this slice asks of higher ones."""

from typing import Protocol

from sqlalchemy import Select

from app.kernel.ids import UserId


class AcquaintanceRule(Protocol):
    """Knows whom a person has met: chats registers those who share a group with them."""

    def select_acquaintances(self, viewer: UserId) -> Select[UserId]:
        """The ids of everyone the viewer has met, for `IN (...)`: never run alone, it may be long."""
        ...
