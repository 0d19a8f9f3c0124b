"""The format of stored ciphertext is final: these bytes must open in every later version."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from app.infra.cipher.envelope import (
    CiphertextInvalid,
    DataKey,
    key_version,
    unwrap_key,
    wrap_key,
)

PLACE = {"table": "users", "column": "phone", "row_id": 7}


def key(*versions: int) -> DataKey:
    return DataKey("user:7", {version: bytes([version]) * 32 for version in versions or (1,)})


def test_the_format_is_as_documented() -> None:
    value = key(3).seal(b"text", **PLACE)
    assert value[0] == 1
    assert int.from_bytes(value[1:5], "big") == 3
    opened = AESGCM(b"\x03" * 32).decrypt(value[5:17], value[17:], b"v1|users|phone|7|3")
    assert opened == b"text"
    assert len(value) == 1 + 4 + 12 + 4 + 16


def test_a_value_that_was_stored_long_ago_still_opens() -> None:
    stored = bytes.fromhex("0100000001") + b"\0" * 12
    stored += AESGCM(b"\x01" * 32).encrypt(b"\0" * 12, b"+4740000000", b"v1|users|phone|7|1")
    assert key().open_text(stored, **PLACE) == "+4740000000"


@given(st.binary(max_size=300), st.booleans())
def test_what_was_sealed_opens(plaintext: bytes, encrypt: bool) -> None:
    value = key().seal(plaintext, **PLACE, encrypt=encrypt)
    assert key().open(value, **PLACE) == plaintext


@pytest.mark.parametrize(
    "place",
    [PLACE | {"table": "chats"}, PLACE | {"column": "bio"}, PLACE | {"row_id": 8}],
)
def test_a_value_that_was_moved_does_not_open(place: dict[str, object]) -> None:
    value = key().seal(b"text", **PLACE)
    with pytest.raises(CiphertextInvalid):
        key().open(value, **place)  # type: ignore[arg-type]


@given(st.data())
def test_a_value_that_was_changed_does_not_open(data: st.DataObject) -> None:
    value = bytearray(key().seal(b"some text", **PLACE))
    place = data.draw(st.integers(1, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CiphertextInvalid):
        key().open(bytes(value), **PLACE)


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01" * 20, b"\x02" * 60, b"\x01" * 60])
def test_what_is_not_a_value_does_not_open(value: bytes) -> None:
    with pytest.raises(CiphertextInvalid):
        key().open(value, **PLACE)


def test_the_newest_version_seals_and_all_versions_open() -> None:
    old = key(1).seal(b"old", **PLACE)
    both = key(1, 2)
    assert both.open(old, **PLACE) == b"old"
    assert int.from_bytes(both.seal(b"new", **PLACE)[1:5], "big") == 2
    with pytest.raises(CiphertextInvalid):
        key(2).open(old, **PLACE)


def test_fingerprints_are_known_under_every_version_and_under_no_other() -> None:
    older, both, newer = key(1), key(1, 2), key(2)
    made = older.fingerprint(b"text")
    assert both.has_fingerprint(b"text", made)
    assert not both.has_fingerprint(b"other", made)
    assert not newer.has_fingerprint(b"text", made)
    assert both.list_fingerprints(b"text") == [newer.fingerprint(b"text"), made]


def test_a_value_tells_the_version_of_its_key_or_that_there_is_none() -> None:
    assert key_version(key(1, 3).seal(b"", **PLACE)) == 3
    assert key_version(key().seal(b"text" * 20, **PLACE, encrypt=False)) is None
    assert key_version(b"") is None


def test_nonces_do_not_repeat() -> None:
    sealing = key()
    nonces = {sealing.seal(b"", **PLACE)[5:17] for _ in range(100_000)}
    assert len(nonces) == 100_000


def test_none_stays_none() -> None:
    assert key().seal_text(None, **PLACE) is None
    assert key().open_text(None, **PLACE) is None


def test_a_wrapped_key_opens_only_in_its_row() -> None:
    kek, secret = AESGCM(os.urandom(32)), os.urandom(32)
    row = {"owner": "chat:1", "version": 1, "kek_version": 1}
    wrapped = wrap_key(kek, secret, **row)  # type: ignore[arg-type]
    assert unwrap_key(kek, wrapped, **row) == secret  # type: ignore[arg-type]
    for change in ({"owner": "chat:2"}, {"version": 2}, {"kek_version": 2}):
        with pytest.raises(CiphertextInvalid):
            unwrap_key(kek, wrapped, **(row | change))  # type: ignore[arg-type]


def test_neither_a_key_nor_its_fault_shows_a_secret() -> None:
    assert "\\x01\\x01" not in repr(key())
    with pytest.raises(CiphertextInvalid) as caught:
        key().open(key().seal(b"marker", **PLACE), **(PLACE | {"row_id": 9}))
    assert "marker" not in str(caught.value)


class Listener:
    """A guard that accepts plain values of one column and notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int | str]] = []

    def accepts_plain(self, table: str, column: str) -> bool:
        return column == "plain"

    def report(self, table: str, column: str, row: int | str) -> None:
        self.heard.append((table, column, row))


def test_a_value_of_an_earlier_revision_does_not_open() -> None:
    data_key = DataKey("user:7", {1: b"k" * 32})
    place = {"table": "t", "column": "c", "row_id": 5}
    values = [data_key.seal(b"x", **place, revision=revision) for revision in range(3)]
    for sealed_as, value in enumerate(values):
        for opened_as in range(3):
            if opened_as == sealed_as:
                assert data_key.open(value, **place, revision=opened_as) == b"x"
                continue
            with pytest.raises(CiphertextInvalid):
                data_key.open(value, **place, revision=opened_as)


def test_what_does_not_open_is_reported_and_reads_as_nothing() -> None:
    guard = Listener()
    data_key = DataKey("user:7", {1: b"k" * 32}, guard=guard)
    value = data_key.seal_text("x", table="t", column="c", row_id=5)
    assert data_key.find_text(value, table="t", column="c", row_id=5) == "x"
    assert data_key.find_text(None, table="t", column="c", row_id=5) is None
    assert guard.heard == []
    assert data_key.find_text(value, table="t", column="c", row_id=6) is None
    assert data_key.find_text(b"\x00forged", table="t", column="c", row_id=7) is None
    assert data_key.find_text(b"\x00kept", table="t", column="plain", row_id=8) == "kept"
    assert guard.heard == [("t", "c", 6), ("t", "c", 7)]


def test_no_nonce_is_used_twice_in_100_000_values() -> None:
    data_key = DataKey("user:7", {1: b"k" * 32})
    sealed = (data_key.seal(b"x", table="t", column="c", row_id=1) for _ in range(100_000))
    assert len({value[5:17] for value in sealed}) == 100_000
