"""How much of everything a chat or a person may have; the number of members is a setting."""

from typing import Final

MAX_TITLE_LENGTH: Final = 128
MAX_DESCRIPTION_LENGTH: Final = 255
MAX_ADDED_AT_ONCE: Final = 200
MAX_CHATS: Final = 5_000
"""Chats of one user: who has as many neither opens, joins nor is added to another. Being written to by
someone new always works, or strangers could fill somebody's list."""
MAX_ADMINS: Final = 50
MAX_INVITES: Final = 100
MAX_INVITE_USES: Final = 100_000
MAX_PINNED: Final = 10
MAX_TOLD_JOINS: Final = 200
"""Members of a group up to which joining and leaving write a service message."""
COUNT_TOLD_EVERY_SECONDS: Final = 60
"""A channel's subscribers learn the new number of members at most this often."""
