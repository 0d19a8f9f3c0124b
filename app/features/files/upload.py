"""Uploading by a form: one file, and what it is for."""

from collections.abc import AsyncGenerator, AsyncIterator

from starlette.requests import Request

from app.features.files.pace import upload_pace
from app.features.files.policy import Purpose, parse_purpose
from app.features.files.store import store_upload
from app.features.files.views import FileView
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.revocations import RevocationList
from app.infra.services import Services
from app.kernel.problems import FieldError, Invalid, Unauthenticated, Unavailable
from app.transport.http.multipart import MAX_OVERHEAD, find_file
from app.transport.http.routing import CLOSE
from app.transport.http.streams import read_stream
from app.transport.stopping import Stop

_FIELDS = frozenset({"purpose"})


async def upload_form(services: Services, request: Request, caller: CurrentSession) -> FileView:
    """Raises:
    As `store_upload` and `find_file`.
    Unauthenticated: the session ended meanwhile.
    Unavailable: the server is stopping.
    """
    stop: Stop = request.app.state.stop
    body = _while_served(services, read_stream(request, upload_pace(services)), caller, stop)
    types = request.headers.getlist("content-type")
    part = await find_file(types, body, name="file", known_fields=_FIELDS)

    def find_purpose() -> Purpose:
        purpose = parse_purpose(part.fields)
        if purpose is None:
            raise Invalid(errors=[FieldError("purpose", "This purpose is not known")])
        return purpose

    find_purpose()
    # The server has read it as a number, or there would be no request.
    length = request.headers.get("content-length")
    return await store_upload(
        services,
        owner_id=caller.user_id,
        chunks=part.chunks(),
        original_name=part.filename,
        purpose=find_purpose,
        declared_size=None if length is None else int(length),
        overhead=MAX_OVERHEAD,
    )


async def _while_served(
    services: Services, pieces: AsyncIterator[bytes], caller: CurrentSession, stop: Stop
) -> AsyncGenerator[bytes]:
    """An upload may take an hour; it ends with the session that began it, and with the server, which would
    not wait for it: whoever sends is told to come again at once.
    """
    revocations = services.rules.one(RevocationList)
    async for piece in pieces:
        if revocations.is_denied(caller.session_id):
            raise Unauthenticated
        if stop.has_begun:
            raise Unavailable(retry_after=1, headers=CLOSE)
        yield piece
