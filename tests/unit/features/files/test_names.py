"""Names of files: kept readable, and nothing that a file system, a header or a screen trips over."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.files.names import MAX_LENGTH, clean_original_name
from app.kernel.entities import utf16_length


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("letter.txt", "letter.txt"),
        ("Отчёт за год.docx", "Отчёт за год.docx"),
        ("写真.jpg", "写真.jpg"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("folder/", "file"),
        ("...", "file"),
        ("\u200b\u2060", "file"),
        ("a\x00b\r\nc\x1b[31m.txt", "abc[31m.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\u2028b.txt", "ab.txt"),
        (".htaccess", ".htaccess"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("x" * 300 + "." + "y" * 40, "x" * 255),
        ("." + "y" * 300, "." + "y" * 254),
    ],
)
def test_a_name_is_kept_as_far_as_it_is_one(given_name: str, kept: str) -> None:
    assert clean_original_name(given_name) == kept


@given(st.text(max_size=600))
def test_whatever_is_sent_a_name_comes_out(text: str) -> None:
    name = clean_original_name(text)
    assert 0 < utf16_length(name) <= MAX_LENGTH
    assert name not in {".", ".."}
    assert not {"/", "\\", "\0", "\n", "\r"} & set(name)
    assert all(unicodedata.category(it) not in {"Cc", "Cs"} for it in name)
    assert clean_original_name(name) == name
    name.encode()
