"""HTTP of files: upload, read, delete."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated

import structlog
from fastapi import Query, Request, Response

from app.features.files.bodies import Bodies
from app.features.files.delete import delete_file
from app.features.files.distrust_bytes import distrust_bytes
from app.features.files.errors import FileNotFound, FileUnreadable
from app.features.files.open_file import OpenedFile, open_file
from app.features.files.schemas import File, ThumbnailSize
from app.features.files.upload import upload_form
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.dependencies import CurrentSessionDep
from app.features.sessions.revocations import RevocationList
from app.infra.cipher.chunks import ChunkInvalid
from app.infra.services import Services
from app.infra.storage.choose import find_redirect_seconds
from app.infra.storage.port import ObjectMissing
from app.transport.http.answers import created, no_content
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter, streamed
from app.transport.http.stored import Stored, answer_stored, content_disposition, is_known
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/files", tags=["Files"])

log = structlog.stdlib.get_logger("app.files")

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {
            "type": "string",
            "enum": ["attachment", "document", "voice", "photo"],
            "default": "attachment",
        },
    },
    "additionalProperties": False,
}
_UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}
_BINARY = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_BYTES = {
    200: {"description": "The bytes.", "content": {"*/*": _BINARY}},
    206: {"description": "The ranges that were asked for.", "content": {"*/*": _BINARY}},
    304: {"description": "The client has them already."},
    307: {"description": "With FILES_REDIRECT_SECONDS: they are at this address, for a moment."},
}


@router.post(
    "/upload",
    status_code=201,
    response_model=File,
    responses=problem_responses(401, 403, 409, 507),
    openapi_extra=_UPLOAD,
)
@limited_by(LimitClass.UPLOADS)
@streamed
async def upload(services: ServicesDep, session: CurrentSessionDep, request: Request) -> Response:
    """Upload one file, which waits for a day to be shown somewhere. What it is is decided from its bytes.

    `purpose`: `attachment`; `document` keeps a photo as it was sent, with all that it tells of place and
    camera, and alone takes those that are not encoded anew (HEIC, AVIF, JPEG XL, TIFF, raw formats); `voice`; `photo`
    takes nothing but a sound photo (for people and chats).
    """
    return created(await upload_form(services, request, session))


@router.get(
    "/{file_type}/{filename}",
    response_class=Response,
    responses={**_BYTES, **problem_responses(401, 404, 416)},
)
@limited_by(LimitClass.DOWNLOADS)
async def read(  # noqa: PLR0917 - FastAPI calls it by name
    services: ServicesDep,
    session: CurrentSessionDep,
    request: Request,
    file_type: str,
    filename: str,
    thumbnail: Annotated[ThumbnailSize | None, Query()] = None,
) -> Response:
    """The bytes, for the uploader and for who may see what shows the file; ranges of them, conditions and
    `HEAD` as of RFC 9110. What browsers do not show without danger is only ever saved.
    """
    opened = await open_file(
        services,
        viewer_id=session.user_id,
        file_type=file_type,
        name=filename,
        thumbnail=thumbnail,
    )
    is_wanted = request.method == "GET" and not is_known(request, opened.etag)
    if is_wanted and (url := await _sign_url(services, opened)):
        # 307: Nobody may keep the way there, which leads nowhere a moment later.
        return Response(status_code=307, headers={"Location": url})
    return answer_stored(request, _as_stored(services, opened, session))


@router.head("/{file_type}/{filename}", include_in_schema=False)
@limited_by(LimitClass.DOWNLOADS)
async def read_head(  # noqa: PLR0917 - FastAPI calls it by name
    services: ServicesDep,
    session: CurrentSessionDep,
    request: Request,
    file_type: str,
    filename: str,
    thumbnail: Annotated[ThumbnailSize | None, Query()] = None,
) -> Response:
    """As the bytes, without them."""
    return await read(services, session, request, file_type, filename, thumbnail)


@router.delete(
    "/{file_type}/{filename}", status_code=204, responses=problem_responses(401, 404, 409)
)
async def delete(
    services: ServicesDep, session: CurrentSessionDep, file_type: str, filename: str
) -> Response:
    """Delete a file that I have uploaded and that nothing shows."""
    await delete_file(services.db, owner_id=session.user_id, file_type=file_type, name=filename)
    return no_content()


async def _sign_url(services: Services, opened: OpenedFile) -> str | None:
    """Where the storage itself gives the bytes, as we would; None: only here."""
    seconds = find_redirect_seconds(services.settings.files, chunk_size=opened.stored.chunk_size)
    if not seconds:
        return None
    return await services.storage.sign_url(
        opened.stored.name,
        seconds=seconds,
        mime_type=opened.media_type,
        disposition=content_disposition(opened.original_name, is_shown=opened.is_shown),
    )


def _as_stored(services: Services, opened: OpenedFile, caller: CurrentSession) -> Stored:
    revocations = services.rules.one(RevocationList)
    bodies = services.rules.one(Bodies)
    stored = opened.stored
    return Stored(
        size=stored.size,
        etag=opened.etag,
        media_type=opened.media_type,
        name=opened.original_name,
        is_shown=opened.is_shown,
        read=partial(_read, services, opened),
        open_file=partial(_open_file, services, opened) if stored.chunk_size == 0 else None,
        may_go_on=lambda: not revocations.is_denied(caller.session_id),
        place=partial(bodies.downloads.take, caller.user_id),
    )


async def _read(
    services: Services, opened: OpenedFile, start: int, length: int
) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(opened.stored.open(start, length)) as pieces:
            async for piece in pieces:
                yield piece
    except ObjectMissing:
        await _tell_missing(services, opened)
        raise FileNotFound from None
    except ChunkInvalid:
        await distrust_bytes(services.db, opened.blob_id)
        raise FileUnreadable from None


async def _open_file(services: Services, opened: OpenedFile) -> int | None:
    try:
        return await services.storage.open_local(opened.stored.name)
    except ObjectMissing:
        await _tell_missing(services, opened)
        raise FileNotFound from None


async def _tell_missing(services: Services, opened: OpenedFile) -> None:
    """It may just have been deleted; if it is told often, the storage has lost something."""
    log.warning("object_missing")
    await distrust_bytes(services.db, opened.blob_id)
