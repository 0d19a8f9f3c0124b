"""What can go wrong in chats, beside `not_allowed`."""

from app.kernel.problems import Conflict, Forbidden, Invalid, NotFound


class ChatNotFound(NotFound):
    code = "chat_not_found"
    title = "There is no such chat"


class MemberNotFound(NotFound):
    code = "member_not_found"
    title = "There is no such member in this chat"


class InviteNotFound(NotFound):
    code = "invite_not_found"
    title = "There is no such invite link, or it is no longer valid"


class ChatForbidden(Forbidden):
    """A member asks for more than their role gives; also whoever is banned and asks to join."""


class OwnerMustTransfer(Conflict):
    code = "owner_must_transfer"
    title = "The owner hands the chat over before leaving it"


class ChatFull(Conflict):
    code = "chat_full"
    title = "The chat has as many members as it may have"


class TooManyChats(Conflict):
    code = "too_many_chats"
    title = "You are in as many chats as one may be in"


class TooManyInvites(Conflict):
    code = "too_many_invites"
    title = "The chat has as many invite links as it may have; revoke one first"


class ChatInvalid(Invalid):
    """A value does not fit this type of chat; `errors` names the field."""

    code = "chat_invalid"
    title = "This does not fit this type of chat"


class TooManyAdmins(Conflict):
    code = "too_many_admins"
    title = "The chat has as many admins as it may have"
