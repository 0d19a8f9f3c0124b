"""What can go wrong in a way that the caller may know: closed kinds, each slice adds its own stable codes.

Problem
  Invalid               422   a value breaks a rule; nothing was changed
  BadRequest            400   the request cannot be understood, or its proof does not hold
  Unauthenticated       401
  Forbidden             403
  NotFound              404   also: what the caller may not know exists
  MethodNotAllowed      405
  Conflict              409
  PreconditionFailed    412   the request assumes what is not so
  TooLarge              413
  UriTooLong            414
  UnsupportedMediaType  415
  RateLimited           429
  ChecksumMismatch      460   the bytes are not those that were announced (tus 1.0)
  Unavailable           503   try again later
  InsufficientStorage   507   nothing more can be kept here
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
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    URI_TOO_LONG = "uri_too_long"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    RATE_LIMITED = "rate_limited"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    UNAVAILABLE = "unavailable"
    INSUFFICIENT_STORAGE = "insufficient_storage"


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
        # For the record of security events alone: the event, where the kind does not tell, what it was
        # about, and whether it stands there already.
        self.event: str | None = None
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


def is_passing(problem: Problem) -> bool:
    """Whether it may be otherwise in a moment; any other will be the same at every try."""
    return problem.kind in {Kind.UNAVAILABLE, Kind.INSUFFICIENT_STORAGE, Kind.RATE_LIMITED}


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


class PreconditionFailed(Problem):
    kind = Kind.PRECONDITION_FAILED
    code = "precondition_failed"
    title = "This is not the state that the request assumes"


class TooLarge(Problem):
    kind = Kind.TOO_LARGE
    code = "too_large"
    title = "The request is too large"


class UriTooLong(Problem):
    kind = Kind.URI_TOO_LONG
    code = "uri_too_long"
    title = "The address of the request is too long"


class UnsupportedMediaType(Problem):
    kind = Kind.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"
    title = "The body must be application/json"


class RangeNotSatisfiable(Problem):
    kind = Kind.RANGE_NOT_SATISFIABLE
    code = "range_not_satisfiable"
    title = "Nothing lies in this range"


class RateLimited(Problem):
    kind = Kind.RATE_LIMITED
    code = "rate_limited"
    title = "Too many requests"


class ChecksumMismatch(Problem):
    kind = Kind.CHECKSUM_MISMATCH
    code = "checksum_mismatch"
    title = "The bytes do not have the announced checksum, none of them was kept"


class Unavailable(Problem):
    kind = Kind.UNAVAILABLE
    code = "unavailable"
    title = "Not available at the moment, try again later"


class InsufficientStorage(Problem):
    kind = Kind.INSUFFICIENT_STORAGE
    code = "storage_full"
    title = "The server can keep nothing more at the moment"
