"""The problems of messages."""

from app.kernel.problems import Conflict, Forbidden, Invalid, NotFound


class MessageNotFound(NotFound):
    """Also: a message of a chat that the caller is not in, or from before they could see."""

    code = "message_not_found"
    title = "There is no such message"


class MessageEmpty(Invalid):
    code = "message_empty"
    title = "A message needs text"


class MessageTooLong(Invalid):
    code = "message_too_long"
    title = "The text is too long"


class CaptionTooLong(Invalid):
    code = "caption_too_long"
    title = "The caption is too long"


class AttachmentsMixed(Invalid):
    """Photos and videos may mix; audio goes with audio, documents with documents, a voice message alone."""

    code = "attachments_mixed"
    title = "These files do not go into one message"


class ClientMessageIdReused(Conflict):
    code = "client_message_id_reused"
    title = "This client_message_id was used for another message"


class PeerBlocked(Forbidden):
    """The other way round, the blocked one gets `not_allowed`, which does not say why."""

    code = "peer_blocked"
    title = "Unblock this user to write to them"
