"""What the gateway refuses inside an open socket."""

from app.kernel.problems import Forbidden


class OtherChat(Forbidden):
    code = "other_chat"
    title = "This socket serves another chat"
