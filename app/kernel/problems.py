"""What can go wrong in a way that the caller may know: closed kinds, each slice adds its own stable codes.

Problem
  Invalid               422   a value breaks a rule; nothing was changed
  BadRequest            400   the request cannot be understood, or its proof does not hold
  Unauthenticated       401
  Forbidden             403
  NotFound              404   also: what the caller may not know exists
  MethodNotAllowed      405
  Conflict              409
  TooLarge              413
  UnsupportedMediaType  415
  RateLimited           429
  Unavailable           503   try again later
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

JsonScalar = str | int | float | bool | None


class Kind(StrEnum):
    """The closed set of kinds; `transport` maps each to one HTTP status."""

    INVALID = "invalid"
    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; never its value."""

    field: str
    message: str


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """The root. `code` is what clients switch on; `title` is the same for every occurrence."""

    kind: ClassVar[Kind]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str = "",
        *,
        errors: list[FieldError] | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        **members: JsonScalar,
    ) -> None:
        """`retry_after` in seconds; `members` are further members of the problem document."""
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors or []
        self.retry_after = retry_after
        self.headers = headers or {}
        self.members = members
        # For the record of security events alone: what it was about, and whether it stands there already.
        self.subject: str | None = None
        self.is_recorded = False

    def document(self, status: int) -> dict[str, object]:
        """The problem document of RFC 9457, the same over HTTP and in a WebSocket `error`."""
        document: dict[str, object] = {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
        }
        if self.errors:
            document["errors"] = [{"field": e.field, "message": e.message} for e in self.errors]
        return document


class Invalid(Problem):
    kind = Kind.INVALID
    code = "validation_error"
    title = "The request has invalid values"


class BadRequest(Problem):
    kind = Kind.BAD_REQUEST
    code = "bad_request"
    title = "The request cannot be understood"


class Unauthenticated(Problem):
    kind = Kind.UNAUTHENTICATED
    code = "unauthenticated"
    title = "Sign in first"


class Forbidden(Problem):
    kind = Kind.FORBIDDEN
    code = "not_allowed"
    title = "This is not allowed"


class NotFound(Problem):
    kind = Kind.NOT_FOUND
    code = "not_found"
    title = "There is no such thing"


class MethodNotAllowed(Problem):
    kind = Kind.METHOD_NOT_ALLOWED
    code = "method_not_allowed"
    title = "This method is not allowed here"


class Conflict(Problem):
    kind = Kind.CONFLICT
    code = "conflict"
    title = "This contradicts the present state"


class TooLarge(Problem):
    kind = Kind.TOO_LARGE
    code = "too_large"
    title = "The request is too large"


class UnsupportedMediaType(Problem):
    kind = Kind.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"
    title = "The body must be application/json"


class RateLimited(Problem):
    kind = Kind.RATE_LIMITED
    code = "rate_limited"
    title = "Too many requests"


class Unavailable(Problem):
    kind = Kind.UNAVAILABLE
    code = "unavailable"
    title = "Not available at the moment, try again later"
