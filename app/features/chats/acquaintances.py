"""What chats answer to users: whom somebody has met, so that they find them by name."""

from sqlalchemy import Select

from app.features.chats.queries import select_acquaintances
from app.kernel.ids import UserId


class ChatAcquaintances:
    """Answers `users.rules.AcquaintanceRule`: people in shared groups. Channels introduce nobody."""

    def select_acquaintances(self, viewer: UserId) -> Select[UserId]:
        """As the Protocol."""
        return select_acquaintances(viewer)
