"""What is cut out of log texts, what stays, and that no text makes the search slow."""

import secrets
import time

import pytest

from app.infra.logging.redaction import escape_controls, redact_members, redact_text

SECRETS = [
    ("GET /ws/{} HTTP/1.1", "abc"),
    ("/ws/chat/42/{}?v=1", "Zx-9_"),
    ("/api/v1/invites/{}/join", "AbC123"),
    ("Authorization: Bearer {}", "opaque-token"),
    ("postgresql://{}@host/db", "user:pass"),
    ("eyJhbGciOiJIUzI1NiJ9.{}.sig", "eyJzdWIiOjF9"),
    ("sent to {}", "+79161234567"),
    ("sent to {}", "+7 (916) 123-45-67"),
    ("?phone={}&a=b", "%2B79161234567"),
    ("your code: {}", "123456"),
    ("{{'token': '{}'}}", "short"),
    ("[SQL: x]\n[parameters: ({})]", "'Anna', 5"),
    ("DETAIL:  Key (phone)=({}) already exists.", "79161234567"),
    ("key {} loaded", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_cut_out(text: str, secret: str) -> None:
    assert secret not in redact_text(text.format(secret))


def test_random_tokens_are_cut_out() -> None:
    tokens = [secrets.token_urlsafe(32) for _ in range(2000)]
    leaked = [token for token in tokens if token in redact_text(f"lost {token} there")]
    assert len(leaked) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "Application startup complete.",
        "Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        '  File "/srv/app/features/messages/send.py", line 120, in append_service_message',
        "test_a_banned_member_cannot_post_in_any_chat_at_all",
        "chat_id=123456789012 seq=77",
        "/api/v1/chats/{chat_id}",
        "code=%s",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_members_are_blanked_by_name_and_searched_by_value() -> None:
    members = {
        "event": "x",
        "code": 5,
        "Phone": "1",
        "detail": {"text": "hi", "n": [1, "+79161234567"]},
        "user_id": 7,
    }
    assert redact_members(members) == {
        "event": "x",
        "code": "***",
        "Phone": "***",
        "detail": {"text": "***", "n": [1, "***"]},
        "user_id": 7,
    }


def test_controls_become_words() -> None:
    assert escape_controls("a\r\nb\x1b]0;x\x07\x9b1m\u202e\u2028\ud800") == (
        r"a\r\nb\x1b]0;x\x07\x9b1m\u202e\u2028\ud800"
    )


@pytest.mark.parametrize(
    "unit", ["eyJ-", "a-", "aA1-", "+1 ", "token:", "\"'", "/ws/", "aA", "+", 'code="']
)
def test_no_text_makes_it_slow(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    redact_text(text)
    assert time.process_time() - started < 1
