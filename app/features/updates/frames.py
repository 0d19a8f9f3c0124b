"""The one place where an update becomes the bytes that every reader gets."""

from collections.abc import Mapping

import orjson

from app.kernel.scopes import Scope


def render_update(update_type: str, scope: Scope, seq: int, data: Mapping[str, object]) -> bytes:
    """`{"type","scope","seq","data"}` as UTF-8 JSON."""
    return orjson.dumps({"type": update_type, "scope": scope.wire, "seq": seq, "data": data})
