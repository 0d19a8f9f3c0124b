"""What can go wrong with tokens and sessions."""

from app.kernel.problems import Forbidden, NotFound, RateLimited, Unauthenticated


class TokenRefused(Unauthenticated):
    """Wrong, expired, of another kind, or its session has ended: the caller learns no more."""

    code = "token_invalid"
    title = "The token is not valid, refresh it or sign in again"


class RefreshTokenInvalid(Unauthenticated):
    """Also for a replayed token, after which the session is over."""

    code = "refresh_token_invalid"
    title = "The refresh token is not valid, sign in again"


class OriginRefused(Forbidden):
    """A browser says that a page of another site makes this call with the cookies of ours."""

    code = "origin_refused"
    title = "Pages of this origin may not make this call"


class CsrfRefused(Forbidden):
    """Whoever signs in by cookie repeats the cookie `csrf_token` in `X-CSRF-Token`."""

    code = "csrf_refused"
    title = "The CSRF token is missing or not of this session"


class FreshAuthenticationRequired(Forbidden):
    """The session is in order, but its holder last proved to be the owner too long ago."""

    code = "fresh_authentication_required"
    title = "Confirm that it is you first"


class SessionNotFound(NotFound):
    code = "session_not_found"
    title = "There is no such session of yours"


class TooManyTickets(RateLimited):
    code = "too_many_tickets"
    title = "Too many unused tickets, use one or wait"
