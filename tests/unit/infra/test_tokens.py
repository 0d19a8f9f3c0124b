"""Access tokens accept what we wrote and nothing else; opaque tokens keep to their purpose."""

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.infra.tokens.access import AccessTokens, TokenInvalid
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.ids import SessionId, UserId
from tests.support.databases import SetClock

SECRET = b"s" * 40
LIFETIME = timedelta(minutes=15)


def tokens(clock: SetClock, secret: bytes = SECRET) -> AccessTokens:
    return AccessTokens(secret, lifetime=LIFETIME, clock=clock)


def issue(made: AccessTokens) -> str:
    return made.issue(user_id=UserId(5), session_id=SessionId(9)).token


def part(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})


def sign(made: AccessTokens, claims: dict[str, Any], header: dict[str, Any]) -> str:
    """A token under our own key: what an attacker could make only of a fault elsewhere."""
    return jwt.encode(claims, made._key, algorithm="HS256", headers=header)


def test_a_token_says_who_and_which_session(clock: SetClock) -> None:
    made = tokens(clock)
    issued = made.issue(user_id=UserId(5), session_id=SessionId(9))
    assert issued.expires_in == 900
    for verifier in (made, tokens(clock)):
        claims = verifier.verify(issued.token)
        assert (claims.user_id, claims.session_id) == (5, 9)


def test_signing_keys_change_while_tokens_live(clock: SetClock) -> None:
    """The steps of docs/security.md: announce the new key, sign with it, forget the old one."""
    old, new = b"o" * 40, b"n" * 40

    def worker(secret: bytes, *previous: bytes) -> AccessTokens:
        return AccessTokens(secret, lifetime=LIFETIME, clock=clock, previous_keys=previous)

    before, announced = worker(old), worker(old, new)
    changed, after = worker(new, old), worker(new)
    for signer, verifier in (
        (before, announced),
        (announced, before),
        (announced, changed),
        (changed, announced),
        (before, changed),
        (changed, after),
    ):
        assert verifier.verify(issue(signer)).session_id == 9
    with pytest.raises(TokenInvalid):
        after.verify(issue(before))


def test_the_name_of_one_key_does_not_vouch_for_another(clock: SetClock) -> None:
    old, new = b"o" * 40, b"n" * 40
    made = AccessTokens(new, lifetime=LIFETIME, clock=clock, previous_keys=(old,))
    header, claims = parts_of(issue(tokens(clock, old)))
    new_header, _ = parts_of(issue(made))
    with pytest.raises(TokenInvalid):
        made.verify(sign(tokens(clock, old), claims, header | {"kid": new_header["kid"]}))
    with pytest.raises(TokenInvalid):
        made.verify(sign(tokens(clock, b"x" * 40), claims, header))


def test_a_token_ends_in_time_also_when_it_was_seen_before(clock: SetClock) -> None:
    made = tokens(clock)
    token = issue(made)
    made.verify(token)
    clock.advance(seconds=899)
    made.verify(token)
    clock.advance(seconds=1)
    for verifier in (made, tokens(clock)):
        with pytest.raises(TokenInvalid):
            verifier.verify(token)


def test_clocks_of_workers_may_differ_a_little(clock: SetClock) -> None:
    token = issue(tokens(clock))
    late = SetClock()
    late.moment = clock.moment - timedelta(seconds=30)
    tokens(late).verify(token)
    late.advance(minutes=-5)
    with pytest.raises(TokenInvalid):
        tokens(late).verify(token)


def test_a_shorter_life_is_kept(clock: SetClock) -> None:
    made = tokens(clock)
    issued = made.issue(user_id=UserId(5), session_id=SessionId(9), lifetime=timedelta(seconds=10))
    assert issued.expires_in == 10


@pytest.mark.parametrize("claim", ["iss", "aud", "exp", "nbf", "iat", "jti", "sub", "sid", "typ"])
def test_every_claim_is_required(clock: SetClock, claim: str) -> None:
    made = tokens(clock)
    header, claims = parts_of(issue(made))
    made.verify(sign(made, claims, header))
    del claims[claim]
    with pytest.raises(TokenInvalid):
        made.verify(sign(made, claims, header))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "somebody"),
        ("aud", "other"),
        ("aud", ["messenger-api"]),
        ("typ", "refresh"),
        ("typ", None),
        ("sub", 5),
        ("sub", "5 "),
        ("sub", "-5"),
        ("sub", "9" * 17),
        ("sid", "x"),
        ("exp", "9999999999"),
        ("exp", 9999999999.5),
        ("exp", True),
        ("nbf", 99999999999),
        ("iat", 99999999999),
        ("jti", ""),
        ("jti", 1),
        ("admin", True),
    ],
)
def test_a_wrong_claim_is_refused(clock: SetClock, claim: str, value: object) -> None:
    made = tokens(clock)
    header, claims = parts_of(issue(made))
    with pytest.raises(TokenInvalid):
        made.verify(made_of(made, claims | {claim: value}, header))


def made_of(made: AccessTokens, claims: dict[str, Any], header: dict[str, Any]) -> str:
    """As `sign`, for claims that PyJWT refuses to write."""
    signed = f"{part(header)}.{part(claims)}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), made._key)
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "change",
    [
        {"kid": None},
        {"kid": "../../dev/null"},
        {"kid": 1},
        {"typ": "at+jwt"},
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5u": "https://evil.example/cert"},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"alg": "HS512"},
        {"alg": "none"},
        {"alg": "RS256"},
        {"alg": "hs256"},
    ],
)
def test_any_other_header_is_refused(clock: SetClock, change: dict[str, Any]) -> None:
    made = tokens(clock)
    header, claims = parts_of(issue(made))
    changed = {k: v for k, v in (header | change).items() if v is not None}
    with pytest.raises(TokenInvalid):
        made.verify(made_of(made, claims, changed))


def test_unsigned_tokens_and_other_keys_are_refused(clock: SetClock) -> None:
    made = tokens(clock)
    token = issue(made)
    header, claims = parts_of(token)
    body = token.rpartition(".")[0]
    forged = [
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.",
        f"{part(header)}.{part(claims)}.",
        f"{body}.",
        body,
        issue(tokens(clock, b"t" * 40)),
        jwt.encode(claims, made._key, algorithm="HS384", headers={"kid": header["kid"]}),
    ]
    for wrong in forged:
        with pytest.raises(TokenInvalid):
            made.verify(wrong)


@given(st.text(max_size=2000))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens(SetClock()).verify(text)


@pytest.mark.parametrize("text", ["\ud800", "ы.ы.ы", "a" * 5000, "..", "a.b.c\0", ""])
def test_odd_texts_are_refused(clock: SetClock, text: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens(clock).verify(text)


def test_the_memory_of_verified_tokens_is_bounded(clock: SetClock) -> None:
    made = AccessTokens(SECRET, lifetime=LIFETIME, clock=clock, cache_size=5)
    for _ in range(20):
        made.verify(issue(made))
    assert len(made._verified) == 5


def test_opaque_tokens_keep_to_their_purpose() -> None:
    token = new_token(Purpose.REFRESH)
    stored = hash_token(token, Purpose.REFRESH)
    assert stored is not None
    assert len(stored) == 32
    assert hash_token(token, Purpose.TICKET) is None
    assert hash_token(token + "a", Purpose.REFRESH) is None
    assert hash_token("rt_\ud800", Purpose.REFRESH) is None
    assert new_token(Purpose.REFRESH) != token
