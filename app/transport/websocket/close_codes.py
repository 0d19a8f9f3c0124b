"""Why a socket was closed: the codes of the contract."""

from enum import IntEnum


class CloseCode(IntEnum):
    """4000-4999 are ours (RFC 6455, 7.4.2), named after the HTTP status that says the same."""

    NORMAL = 1000
    SERVICE_RESTART = 1012
    MALFORMED = 4400
    NOT_SIGNED_IN = 4401
    NOT_ALLOWED = 4403
    IDLE = 4408
    TOO_SLOW = 4409
    TOO_LARGE = 4413
    TOO_MANY = 4429


MEANINGS: dict[CloseCode, str] = {
    CloseCode.SERVICE_RESTART: "The server restarts: reconnect with backoff and resume.",
    CloseCode.MALFORMED: "A frame was not a JSON object with `type` and `data`, or was binary.",
    CloseCode.NOT_SIGNED_IN: "The token is not valid, or the session ended.",
    CloseCode.NOT_ALLOWED: "There is no such chat for you.",
    CloseCode.IDLE: "No frame came for too long: send `ping` every `heartbeat_seconds`.",
    CloseCode.TOO_SLOW: "The client does not read fast enough: reconnect and resume.",
    CloseCode.TOO_LARGE: "A frame was larger than 64 KiB.",
    CloseCode.TOO_MANY: "Too many frames in a short time, or too many sockets of one user.",
}
