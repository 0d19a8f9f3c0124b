"""Access tokens: short-lived JWTs (HS256) that name a user and a session. Revocation is the
sessions' concern.

Everything that we write into a token is required of it, and nothing else is accepted: RFC 8725,
3.1, 3.11 and 3.12.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, cast

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.kernel.clock import Clock
from app.kernel.ids import MAX_ID, SessionId, UserId

_ALGORITHM = "HS256"
_ISSUER = "messenger"
_AUDIENCE = "messenger-api"
_CLAIMS = ("iss", "aud", "exp", "nbf", "iat", "jti", "sub", "sid", "typ")
_MAX_CHARACTERS = 1024
# Clocks of the workers may differ by this much before a fresh token of one is refused by another.
_SKEW_SECONDS = 60
_CACHE_SIZE = 20_000


class TokenInvalid(Exception):  # noqa: N818 - says what is found, not what was done
    """Not an access token of ours, or its time has passed. Which, is nobody's business."""


class TokenExpired(TokenInvalid):
    """Ours and whole, and its time has passed: callers are told no more than of any other, but the
    record tells it from a forged one.
    """


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """`expires_at` in whole seconds since 1970."""

    user_id: UserId
    session_id: SessionId
    token_id: str
    expires_at: int


class IssuedToken(NamedTuple):
    token: str
    expires_in: int


class AccessTokens:
    """Issues and verifies; the same token again is a look-up (measured: decoding costs 61 us)."""

    def __init__(
        self,
        secret_key: bytes,
        *,
        lifetime: timedelta,
        clock: Clock,
        previous_keys: Sequence[bytes] = (),
        cache_size: int = _CACHE_SIZE,
    ) -> None:
        """Signs with `secret_key`; what `previous_keys` have signed is accepted too."""
        self._key = _derive(secret_key)
        self._kid = _name_key(self._key)
        keys = (self._key, *(_derive(previous) for previous in previous_keys))
        self._keys = {_name_key(key): key for key in keys}
        self._clock = clock
        self.lifetime = lifetime
        self._verified: OrderedDict[str, AccessClaims] = OrderedDict()
        self._cache_size = cache_size

    def issue(
        self, *, user_id: UserId, session_id: SessionId, lifetime: timedelta | None = None
    ) -> IssuedToken:
        """A token for at most `lifetime`, where the session itself ends sooner than usual."""
        seconds = int(min(self.lifetime, lifetime or self.lifetime).total_seconds())
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": secrets.token_urlsafe(12),
            "sub": str(user_id),
            "sid": str(session_id),
            "typ": "access",
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._kid})
        return IssuedToken(token, seconds)

    def verify(self, token: str) -> AccessClaims:
        """What the token says.

        Raises:
            TokenInvalid, TokenExpired: see there.
        """
        claims = self._verified.get(token)
        if claims is None:
            claims = self._decode(token)
            self._verified[token] = claims
            if len(self._verified) > self._cache_size:
                self._verified.popitem(last=False)
        if claims.expires_at <= self._clock.now().timestamp():
            self._verified.pop(token, None)
            raise TokenExpired
        return claims

    def _decode(self, token: str) -> AccessClaims:
        if len(token) > _MAX_CHARACTERS or not token.isascii():
            raise TokenInvalid
        try:
            # Only a name to look up: a key that is not ours is not there.
            kid: object = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise TokenInvalid
            decoded = jwt.decode_complete(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                # Times are compared below, by our clock.
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "strict_aud": True,
                },
            )
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenInvalid from error
        # Equality refuses crit, jku, jwk, x5u and whatever will be invented next.
        if decoded["header"] != {"alg": _ALGORITHM, "kid": kid, "typ": "JWT"}:
            raise TokenInvalid
        return self._read_claims(cast("Mapping[str, Any]", decoded["payload"]))

    def _read_claims(self, claims: Mapping[str, object]) -> AccessClaims:
        now = self._clock.now().timestamp()
        if claims["typ"] != "access" or len(claims) != len(_CLAIMS):
            raise TokenInvalid
        if max(_whole(claims["nbf"]), _whole(claims["iat"])) > now + _SKEW_SECONDS:
            raise TokenInvalid
        token_id = claims["jti"]
        if not isinstance(token_id, str) or not token_id:
            raise TokenInvalid
        return AccessClaims(
            user_id=UserId(_id(claims["sub"])),
            session_id=SessionId(_id(claims["sid"])),
            token_id=token_id,
            expires_at=_whole(claims["exp"]),
        )


def _derive(secret_key: bytes) -> bytes:
    hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"v1|access-token")
    return hkdf.derive(secret_key)


def _name_key(key: bytes) -> str:
    """Names the key without telling it, so that several live at once while SECRET_KEY is changed."""
    return hashlib.sha256(b"kid|" + key).hexdigest()[:16]


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TokenInvalid
    return value


def _id(value: object) -> int:
    if (
        not isinstance(value, str)
        or not (value.isascii() and value.isdigit())
        or len(value) > len(str(MAX_ID))
    ):
        raise TokenInvalid
    return int(value)
