"""A body that is cut into parts: where it ends, whatever ends it, and that what came before is a part."""

from collections.abc import AsyncIterator, Sequence

import pytest
from starlette.requests import ClientDisconnect

from app.features.files.resumable.errors import UploadOverrun, UploadStalled
from app.features.files.resumable.incoming import Incoming
from app.features.sessions.errors import TokenRefused
from app.transport.http.routing import BodyTooSlow

pytestmark = pytest.mark.anyio


def always() -> bool:
    return True


async def body(*pieces: bytes | Exception) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


async def cut(body: Incoming, size: int) -> list[bytes]:
    """All parts."""
    parts: list[bytes] = []
    while await body.has_more():
        parts.append(b"".join([piece async for piece in body.part(size)]))
    return parts


@pytest.mark.parametrize(
    ("pieces", "size", "parts"),
    [
        ([], 4, []),
        ([b""], 4, []),
        ([b"abc"], 4, [b"abc"]),
        ([b"abcd"], 4, [b"abcd"]),
        ([b"abcde"], 4, [b"abcd", b"e"]),
        ([b"a", b"", b"bcdefgh", b"i"], 4, [b"abcd", b"efgh", b"i"]),
        ([b"abcdefghij"], 3, [b"abc", b"def", b"ghi", b"j"]),
    ],
)
async def test_parts_are_the_body(pieces: Sequence[bytes], size: int, parts: list[bytes]) -> None:
    taken = Incoming(body(*pieces), most=100, may_go_on=always)
    assert await cut(taken, size) == parts
    assert taken.broken is None
    assert not taken.is_cut


@pytest.mark.parametrize(
    ("breaking", "told"),
    [
        (ClientDisconnect(), ClientDisconnect),
        (BodyTooSlow(), UploadStalled),
        (TokenRefused(), TokenRefused),
    ],
)
async def test_what_breaks_a_body_ends_its_last_part(
    breaking: Exception, told: type[Exception]
) -> None:
    taken = Incoming(body(b"abcdef", breaking, b"never"), most=100, may_go_on=always)
    assert await cut(taken, 4) == [b"abcd", b"ef"]
    assert isinstance(taken.broken, told)


@pytest.mark.parametrize("pieces", [[b"abcd", b"e"], [b"abcde"], [b"a", b"bcde"]])
async def test_a_byte_too_much_spoils_the_last_part(pieces: list[bytes]) -> None:
    """Also where everything had come before it: or the upload would end with it."""
    taken = Incoming(body(*pieces), most=4, may_go_on=always)
    with pytest.raises(UploadOverrun):
        await cut(taken, 4)


async def test_who_may_not_go_on_keeps_what_came() -> None:
    answers = iter([True, True, False])
    taken = Incoming(body(b"ab", b"cd", b"ef", b"gh"), most=100, may_go_on=lambda: next(answers))
    assert await cut(taken, 4) == [b"abcd", b"ef"]
    assert taken.is_cut
    assert taken.broken is None


async def test_a_session_that_ends_breaks_the_body() -> None:
    answers = iter([True, TokenRefused()])

    def may_go_on() -> bool:
        answer = next(answers)
        if isinstance(answer, TokenRefused):
            raise answer
        return answer

    taken = Incoming(body(b"ab", b"cd", b"ef"), most=100, may_go_on=may_go_on)
    assert await cut(taken, 10) == [b"ab"]
    assert isinstance(taken.broken, TokenRefused)


async def test_a_part_of_a_slow_body_ends_when_it_is_old() -> None:
    taken = Incoming(body(b"ab", b"cd", b"ef"), most=100, may_go_on=always, part_seconds=0)
    assert await cut(taken, 100) == [b"ab", b"cd", b"ef"]
