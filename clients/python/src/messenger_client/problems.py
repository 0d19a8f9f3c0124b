"""What can become of a call: a definite refusal, no answer, or the end of the session."""

from collections.abc import Mapping
from typing import Any, cast


class ClientError(Exception):
    """The root of this package's errors."""


class Problem(ClientError):  # noqa: N818 - the word of RFC 9457
    """The server refused (RFC 9457): nothing has changed. `code` is the word to switch on."""

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {document.get('code', '')}: {document.get('detail', '')}")
        self.status = status
        self.document = dict(document)
        self.code: str = document.get("code", "")
        self.detail: str = document.get("detail", "")
        self.errors = cast("list[dict[str, str]]", document.get("errors") or [])
        self.retry_after = retry_after


class Unreachable(ClientError):  # noqa: N818 - what happened
    """No answer, or one that a dying server or a proxy gave: what became of the call is unknown."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class SessionEnded(ClientError):  # noqa: N818 - what happened
    """Signed out, revoked or expired: sign in again."""


class PasswordRequired(ClientError):  # noqa: N818 - what is needed
    """The code was right, and a second factor is set: go on with `Client.sign_in_with_factor`."""

    def __init__(self, password_token: str, methods: list[str]) -> None:
        super().__init__(f"the second factor is needed: {', '.join(methods)}")
        self.password_token = password_token
        self.methods = methods
