"""The JSON parser: what it refuses, that it agrees with others on the rest, and that it is fast."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transport.http.strict_json import JsonTooComplex, MalformedJson, parse_json

MALFORMED = {
    "nothing": b"",
    "only space": b" \n",
    "unclosed object": b"{",
    "twice the same member": b'{"a":1,"a":2}',
    "twice the same member, one escaped": b'{"a":1,"\\u0061":2}',
    "twice the same member, deeper": b'[{"x":{"a":1,"a":1}}]',
    "NaN": b"NaN",
    "minus infinity": b"[-Infinity]",
    "infinite by size": b"[1e400]",
    "too long a number": b"1" * 5000,
    "too long a fraction": b"0." + b"1" * 5000,
    "half a pair, high": b'"\\ud800"',
    "half a pair, low, in a key": b'{"\\uDFFF":1}',
    "half a pair before another escape": b'"\\ud83dx\\ude00"',
    "half a pair in UTF-8": b'"\xed\xa0\x80"',
    "U+0000": b'"\\u0000"',
    "U+0000 deep inside": b'{"a":[{"b":"x\\u0000"}]}',
    "raw U+0000": b'"\x00"',
    "raw line break in a string": b'"a\nb"',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "overlong encoding": b'"\xc0\xaf"',
    "two values": b"{}{}",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "comment": b"{}//",
    "leading zero": b"01",
    "plus sign": b"+1",
    "bare dot": b"1.",
    "no-break space around": b"\xc2\xa0{}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_json(body)


def test_thirty_two_levels_are_enough_and_thirty_three_too_many() -> None:
    parse_json(b"[" * 32 + b"]" * 32)
    with pytest.raises(JsonTooComplex):
        parse_json(b"[" * 33 + b"]" * 33)
    with pytest.raises(JsonTooComplex):
        parse_json(b'{"a":' * 33 + b"1" + b"}" * 33)


def test_brackets_inside_strings_are_no_depth() -> None:
    text = '[{"\\"]}' * 50
    assert parse_json(json.dumps({"text": text}).encode()) == {"text": text}


def test_many_shallow_objects_are_no_depth() -> None:
    contacts = [{"phone": "+1"}] * 500
    assert parse_json(json.dumps({"contacts": contacts})) == {"contacts": contacts}


def test_a_text_about_escapes_is_no_escape() -> None:
    assert parse_json(rb'"\\u0000 \\ud800"') == r"\u0000 \ud800"


def test_whole_pairs_pass() -> None:
    assert parse_json(rb'"\ud83d\ude00"') == "\N{GRINNING FACE}"


def test_long_integers_stay_exact() -> None:
    assert parse_json(b"123456789012345678901") == 123456789012345678901


SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    st.recursive(
        SCALARS | WORDS,
        lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
        max_leaves=20,
    )
)
def test_it_reads_what_json_writes(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text(alphabet='{}[]",:\\u0d8e1-. \n', max_size=80).map(str.encode))
def test_no_bytes_break_it(body: bytes) -> None:
    try:
        parse_json(body)
    except (MalformedJson, JsonTooComplex):
        return


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"' * 500_000,
        b"[" * 40 + b'"' + b'\\"' * 400_000 + b"\\",
        b"[" * 1_000_000,
        b"[" + b"1," * 500_000 + b"1]",
        b'{"a":' * 200_000,
    ],
    ids=["open string", "open string in depth", "brackets", "items", "objects"],
)
def test_a_hostile_megabyte_costs_little(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises((MalformedJson, JsonTooComplex)):
        parse_json(body)
    assert time.process_time() - started < 0.2
