"""What can go wrong with one's own settings of a chat."""

from app.kernel.problems import Conflict


class TooManyPinned(Conflict):
    code = "too_many_pinned"
    title = "As many chats are pinned as may be; unpin one first"
