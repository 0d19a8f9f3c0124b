"""One file of a `multipart/form-data` body (RFC 7578), handed on while it comes and kept nowhere.

Starlette's own form spools what it reads to a temporary file, in the clear.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.kernel.problems import BadRequest, FieldError, Invalid, UnsupportedMediaType

FORM_TYPE: Final = "multipart/form-data"
# All that is not the file: boundaries, headers, fields, and what stands before and behind the parts.
MAX_OVERHEAD: Final = 131_072

_MAX_PARTS: Final = 8
_MAX_FIELD_BYTES: Final = 1_024
_MAX_HEADERS: Final = 8
# A name of 10,000 characters is cut, not refused: each may take four bytes, as %XX twelve.
_MAX_HEADER_BYTES: Final = 65_536
# Some clients send a name that is not ASCII in this form only, though RFC 7578 asks for plain UTF-8.
_EXTENDED_NAME: Final = re.compile(
    r"""filename\*\s*=\s*"?([A-Za-z0-9-]*)'[^';"]*'([^;"\s]*)""", re.IGNORECASE
)


class MultipartMalformed(BadRequest):
    code = "multipart_malformed"
    title = "The multipart body is malformed, or has too much beside the file"


@dataclass(slots=True)
class _Part:
    """Of which the headers are being read, or the body. `filename`: of a file alone, as it was sent."""

    disposition: bytes = b""
    name: str = ""
    filename: str | None = None
    value: bytearray = field(default_factory=bytearray)


class FilePart:
    """The file of a body. Read `chunks()` to the end: only then `fields` are all that there are."""

    def __init__(self, reader: "_Reader") -> None:
        self._reader = reader
        self.filename = reader.filename or ""
        self.fields = reader.fields

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Its bytes, then nothing more while the rest of the body is read.

        Raises:
            MultipartMalformed: multipart_malformed
        """
        reader = self._reader
        while True:
            pieces, reader.pieces = reader.pieces, []
            for piece in pieces:
                yield piece
            if not await reader.read_some():
                break


async def find_file(
    content_types: list[str], body: AsyncIterator[bytes], *, name: str, known_fields: frozenset[str]
) -> FilePart:
    """Read up to the file in the field `name`.

    Raises:
        UnsupportedMediaType: unsupported_media_type
        MultipartMalformed: multipart_malformed
        Invalid: validation_error, there is no such file, or a field that is not known
    """
    reader = _Reader(_find_boundary(content_types), body, name=name, known_fields=known_fields)
    while reader.filename is None:
        if not await reader.read_some():
            raise Invalid(errors=[FieldError(name, "Field required")])
    return FilePart(reader)


def _find_boundary(content_types: list[str]) -> bytes:
    declared, options = parse_options_header(content_types[0] if len(content_types) == 1 else "")
    if declared.decode("latin-1") != FORM_TYPE:
        raise UnsupportedMediaType("The body must be multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MultipartMalformed
    return boundary


class _Reader:
    def __init__(
        self,
        boundary: bytes,
        body: AsyncIterator[bytes],
        *,
        name: str,
        known_fields: frozenset[str],
    ) -> None:
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self._body = body
        self._name = name
        self._known_fields = known_fields
        self._part = _Part()
        self._header_name = b""
        self._header_value = b""
        self._parts = 0
        self._overhead = 0
        self._is_over = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_value,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError:
            raise MultipartMalformed from None

    async def read_some(self) -> bool:
        """Parse the next piece of the body; False: it was over, and complete."""
        piece = await anext(self._body, None)
        if piece is None:
            if not self._is_over:
                raise MultipartMalformed
            return False
        self._overhead += len(piece)
        try:
            self._parser.write(piece)
        except FormParserError:
            raise MultipartMalformed from None
        if self._overhead > MAX_OVERHEAD:
            raise MultipartMalformed
        return True

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise MultipartMalformed
        self._part = _Part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._part.disposition = self._header_value
        self._header_name = self._header_value = b""

    def _begin_value(self) -> None:
        part = self._part
        kind, options = parse_options_header(part.disposition)
        if kind != b"form-data" or b"name" not in options:
            raise MultipartMalformed
        part.name = options[b"name"].decode(errors="replace")
        part.filename = _find_filename(part.disposition, options)
        if part.filename is None:
            if part.name not in self._known_fields or part.name in self.fields:
                raise Invalid(
                    errors=[FieldError("form", "A field is not known, or given twice")],
                )
            return
        if part.name != self._name or self.filename is not None:
            raise Invalid(errors=[FieldError("form", "One file is taken, in the field 'file'")])
        self.filename = part.filename

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.filename is not None:
            self._overhead -= end - start
            self.pieces.append(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > _MAX_FIELD_BYTES:
            raise MultipartMalformed

    def _end_part(self) -> None:
        part = self._part
        if part.filename is None:
            self.fields[part.name] = part.value.decode(errors="replace")

    def _end(self) -> None:
        self._is_over = True


def _find_filename(disposition: bytes, options: dict[bytes, bytes]) -> str | None:
    """As it was sent, whatever is in it; None: this part is not a file."""
    plain = options.get(b"filename")
    if plain is not None:
        # As browsers write a quotation mark (WHATWG HTML, "multipart/form-data encoding algorithm").
        return plain.replace(b"%22", b'"').decode(errors="replace")
    extended = _EXTENDED_NAME.search(disposition.decode("latin-1"))
    if extended is None:
        return None
    charset = "latin-1" if extended[1].lower() == "iso-8859-1" else "utf-8"
    return unquote_to_bytes(extended[2]).decode(charset, errors="replace")
