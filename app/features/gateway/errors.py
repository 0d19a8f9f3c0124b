"""What the gateway refuses inside an open socket."""

from app.kernel.problems import Forbidden, Invalid


class ForeignToken(Forbidden):
    code = "foreign_token"
    title = "The token belongs to another session"


class OtherChat(Forbidden):
    code = "other_chat"
    title = "This socket serves another chat"


class TooManyScopes(Invalid):
    code = "too_many_scopes"
    title = "At most 1,000 scopes may be named at once"
