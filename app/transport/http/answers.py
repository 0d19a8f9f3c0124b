"""Answers: plain data serialised once by orjson. FastAPI passes a ready Response through unchecked."""

from collections.abc import Mapping, Sequence

import orjson
from starlette.responses import Response

JSON_MEDIA_TYPE = "application/json"


def ok(data: Mapping[str, object] | Sequence[object]) -> Response:
    """200 with `data`."""
    return Response(orjson.dumps(data), media_type=JSON_MEDIA_TYPE)


def created(data: Mapping[str, object] | Sequence[object]) -> Response:
    """201 with the new object."""
    return Response(orjson.dumps(data), status_code=201, media_type=JSON_MEDIA_TYPE)


def no_content() -> Response:
    """204: done, nothing to tell."""
    return Response(status_code=204)
