"""What can be wrong with a call."""

from app.kernel.problems import Forbidden, Invalid


class CallNotAllowed(Forbidden):
    code = "call_not_allowed"
    title = "This person cannot be called"


class CallTooLarge(Invalid):
    code = "call_too_large"
    title = "A call frame takes at most 32 KiB"
