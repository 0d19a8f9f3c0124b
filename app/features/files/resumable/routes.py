"""HTTP of resumable uploads: tus 1.0 with creation, creation-with-upload, creation-defer-length, termination,
checksum and expiration, and one route beside it that answers JSON.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, Path, Request, Response
from starlette.background import BackgroundTask

from app.features.files.pace import upload_pace
from app.features.files.resumable.create import create_upload
from app.features.files.resumable.errors import OffsetMismatch, UploadOverrun
from app.features.files.resumable.finish import finish_upload
from app.features.files.resumable.incoming import Incoming
from app.features.files.resumable.metadata import MAX_CHARACTERS, find_metadata
from app.features.files.resumable.protocol import (
    ALGORITHMS,
    BODY_TYPE,
    EXTENSIONS,
    VERSION,
    Checksum,
    find_checksum,
    find_length,
    find_number,
    has_body,
    invalid,
    require_body_type,
    require_version,
)
from app.features.files.resumable.receive import MAX_CHECKED_BYTES, receive
from app.features.files.resumable.schemas import UploadStanding
from app.features.files.resumable.status import Standing, get_standing
from app.features.files.resumable.tell_length import tell_length
from app.features.files.resumable.terminate import terminate_upload
from app.features.files.resumable.upload import FAILED, FINISHING, Upload
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.dependencies import CurrentSessionDep
from app.features.sessions.errors import TokenRefused
from app.features.sessions.revocations import RevocationList
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.problems import MethodNotAllowed, NotFound, Problem, is_passing
from app.transport.http.answers import no_content, ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import answer_headers, limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import CLOSE, SliceRouter, streamed
from app.transport.http.streams import read_stream
from app.transport.limits import LimitClass

# A proxy waits for an answer no longer than 30 seconds; the file comes into being behind it all the same.
_FINISH_SECONDS: Final = 20.0
_PATH: Final = "/files/tus"

log = structlog.stdlib.get_logger("app.files")

router = SliceRouter(prefix=_PATH, tags=["Resumable uploads"])


async def _speak_tus(request: Request) -> None:
    """Every answer says so, be it a refusal."""
    answer_headers(request)["Tus-Resumable"] = VERSION


async def _hear_tus(request: Request, session: CurrentSessionDep) -> CurrentSession:
    """The session of a request that speaks our version.

    Raises:
        TusVersionUnsupported: tus_version_unsupported
    """
    require_version(request.headers)
    return session


async def _hear_bytes(request: Request, session: CurrentSessionDep) -> CurrentSession:
    """As above, where a body may come; before anything else is looked at, it is none that a form can send.

    Raises:
        UnsupportedMediaType: unsupported_media_type
        TusVersionUnsupported: tus_version_unsupported
    """
    if has_body(request.headers) or "content-type" in request.headers:
        require_body_type(request.headers)
    return await _hear_tus(request, session)


_TUS: Final = [Depends(_speak_tus)]
TusSessionDep = Annotated[CurrentSession, Depends(_hear_tus)]
TusBytesDep = Annotated[CurrentSession, Depends(_hear_bytes)]
Token = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


_NUMBER: Final = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$"}
_HEADERS: Final[Mapping[str, Mapping[str, object]]] = {
    "Tus-Resumable": {"type": "string", "enum": [VERSION]},
    "Upload-Length": _NUMBER,
    "Upload-Offset": _NUMBER,
    "Upload-Defer-Length": {"type": "string", "enum": ["1"]},
    "Upload-Metadata": {"type": "string", "maxLength": MAX_CHARACTERS},
    "Upload-Checksum": {"type": "string", "pattern": "^(sha1|sha256|md5) [A-Za-z0-9+/]+={0,2}$"},
    "X-HTTP-Method-Override": {"type": "string", "enum": ["PATCH", "DELETE"]},
}


def _documented(*names: str, body: bool = False) -> dict[str, Any]:
    """For OpenAPI: the headers that a request may have beside `Tus-Resumable`, and the bytes."""
    parameters = [
        {
            "name": name,
            "in": "header",
            "required": name in {"Tus-Resumable", "X-HTTP-Method-Override"},
            "schema": _HEADERS[name],
        }
        for name in ("Tus-Resumable", *names)
    ]
    content = {BODY_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    return {"parameters": parameters} | ({"requestBody": {"content": content}} if body else {})


@router.options("", status_code=204, dependencies=_TUS)
async def get_abilities(services: ServicesDep) -> Response:
    """Which version and extensions of tus are spoken here, and how large an upload may be."""
    answer = no_content()
    answer.headers["Tus-Version"] = VERSION
    answer.headers["Tus-Extension"] = ",".join(EXTENSIONS)
    answer.headers["Tus-Max-Size"] = str(services.settings.files.largest_file)
    answer.headers["Tus-Checksum-Algorithm"] = ",".join(ALGORITHMS)
    return answer


@router.post(
    "",
    status_code=201,
    response_class=Response,
    dependencies=_TUS,
    responses=problem_responses(401, 409, 412, 460),
    openapi_extra=_documented(
        "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Checksum", body=True
    ),
)
@limited_by(LimitClass.UPLOADS)
@streamed
async def post_upload(services: ServicesDep, request: Request, session: TusBytesDep) -> Response:
    """Begin an upload of `Upload-Length` bytes, or with `Upload-Defer-Length: 1` of as many as will be told.
    `Location` says where it goes on; the body may be its first bytes. If those are refused or break off, nothing of
    the upload stays; if only the storage takes no more, `Upload-Offset` says how many were kept. Of
    `Upload-Metadata`, `filename` and `purpose` (as of `POST /files/upload`) count; `filetype` does not, the bytes
    decide.
    """
    headers = request.headers
    length, metadata, checksum = (
        find_length(headers),
        find_metadata(headers),
        find_checksum(headers),
    )
    upload = await create_upload(
        services, owner_id=session.user_id, length=length, metadata=metadata
    )
    answer = Response(status_code=201)
    answer.headers["Location"] = f"{request.scope['path']}/{upload.token}"
    try:
        is_complete = upload.state == FINISHING
        if has_body(headers):
            body = _take_body(services, request, session, upload, checksum)
            is_complete |= await receive(services, upload, body, checksum=checksum)
            if body.is_cut:
                answer.headers.update(CLOSE)
        await _tell_progress(services, upload, answer, is_complete=is_complete)
    except BaseException as error:
        if isinstance(error, Problem) and is_passing(error):
            # As many bytes as could be had, says tus: whoever knows where it stands goes on from there.
            answer.headers.update(CLOSE)
            await _tell_progress(services, upload, answer, is_complete=False)
            return answer
        # Nobody has heard its name: it would hold room and a place until it expires.
        with contextlib.suppress(Problem):
            await terminate_upload(services, owner_id=session.user_id, token=upload.token)
        raise
    return answer


@router.head(
    "/{token}",
    response_class=Response,
    dependencies=_TUS,
    responses=problem_responses(401, 404, 412),
    openapi_extra=_documented(),
)
@limited_by(LimitClass.UPLOAD_PARTS)
async def head_upload(services: ServicesDep, session: TusSessionDep, token: Token) -> Response:
    """Where an upload goes on: `Upload-Offset`. When it has become a file, `X-File-ID` and `X-File-URL` say
    which. Of one that has failed nothing is left: 404; `GET` says why.
    """
    standing = await get_standing(services, owner_id=session.user_id, token=token)
    if standing.upload.state == FAILED:
        raise NotFound
    answer = Response()
    _render_headers(standing, answer)
    if standing.metadata:
        answer.headers["Upload-Metadata"] = standing.metadata
    return answer


@router.get(
    "/{token}",
    response_model=UploadStanding,
    dependencies=_TUS,
    responses=problem_responses(401, 404),
)
@limited_by(LimitClass.UPLOAD_PARTS)
async def get_upload(services: ServicesDep, session: CurrentSessionDep, token: Token) -> Response:
    """What has become of an upload, until it expires: `receiving`, `finishing` when all bytes are there,
    `finished` with its `file`, or `failed` with the code of the problem. No part of tus.
    """
    standing = await get_standing(services, owner_id=session.user_id, token=token)
    upload = standing.upload
    document: dict[str, object] = {
        "state": upload.state,
        "offset": upload.received,
        "length": upload.length,
        "expires_at": format_time(upload.expires_at),
    }
    if upload.failure is not None:
        document["failure"] = upload.failure
    if standing.file is not None:
        document["file"] = standing.file
    return ok(document)


@router.patch(
    "/{token}",
    status_code=204,
    dependencies=_TUS,
    responses=problem_responses(401, 404, 409, 412, 460, 507),
    openapi_extra=_documented("Upload-Offset", "Upload-Length", "Upload-Checksum", body=True),
)
@limited_by(LimitClass.UPLOAD_PARTS)
@streamed
async def patch_upload(
    services: ServicesDep, request: Request, session: TusBytesDep, token: Token
) -> Response:
    """The bytes from `Upload-Offset` on, as many as there are; `Upload-Offset` of the answer says where the
    upload stands then. What came of a body that breaks off is kept, unless there is an `Upload-Checksum`
    (`sha1`, `sha256`, `md5`): then all of it is kept or nothing, one such body is taken at a time, and of an upload
    whose length is not known it has 64 MiB at most. The answer to the last bytes has
    `X-File-ID` and `X-File-URL`; if they are missing, the file is not ready yet: `GET` says when.
    """
    return await _patch(services, request, session, token)


@router.delete(
    "/{token}",
    status_code=204,
    dependencies=_TUS,
    responses=problem_responses(401, 404, 412),
    openapi_extra=_documented(),
)
async def delete_upload(services: ServicesDep, session: TusSessionDep, token: Token) -> Response:
    """Terminate an upload: what came of it is deleted. A file that it has become already stays."""
    await terminate_upload(services, owner_id=session.user_id, token=token)
    return no_content()


@router.post(
    "/{token}",
    status_code=204,
    dependencies=_TUS,
    responses=problem_responses(401, 404, 405, 409, 412, 460, 507),
    openapi_extra=_documented(
        "X-HTTP-Method-Override", "Upload-Offset", "Upload-Length", "Upload-Checksum", body=True
    ),
)
@limited_by(LimitClass.UPLOAD_PARTS)
@streamed
async def post_override(
    services: ServicesDep, request: Request, session: TusBytesDep, token: Token
) -> Response:
    """`PATCH` or `DELETE`, as `X-HTTP-Method-Override` says, for where only `GET` and `POST` get through."""
    match request.headers.getlist("x-http-method-override"):
        case ["PATCH"]:
            return await _patch(services, request, session, token)
        case ["DELETE"]:
            await terminate_upload(services, owner_id=session.user_id, token=token)
            return no_content()
        case _:
            raise MethodNotAllowed(headers={"Allow": "DELETE, GET, HEAD, PATCH", **CLOSE})


async def _patch(
    services: Services, request: Request, session: CurrentSession, token: str
) -> Response:
    headers = request.headers
    require_body_type(headers)
    offset = find_number(headers, "Upload-Offset")
    length = find_number(headers, "Upload-Length")
    checksum = find_checksum(headers)
    if offset is None:
        raise invalid("Upload-Offset is needed")
    upload = (await get_standing(services, owner_id=session.user_id, token=token)).upload
    if upload.state == FAILED:
        raise NotFound(headers=CLOSE)
    if upload.received != offset:
        raise OffsetMismatch(headers=CLOSE)
    is_complete = False
    if length is not None:
        was, upload = upload, await tell_length(services, upload, length)
        is_complete = upload.state == FINISHING != was.state
    body = _take_body(services, request, session, upload, checksum)
    is_complete |= await receive(services, upload, body, checksum=checksum)
    answer = no_content()
    if body.is_cut:
        answer.headers.update(CLOSE)
    await _tell_progress(services, upload, answer, is_complete=is_complete)
    return answer


def _take_body(
    services: Services,
    request: Request,
    session: CurrentSession,
    upload: Upload,
    checksum: Checksum | None,
) -> Incoming:
    """Raises:
    UploadOverrun: upload_overrun
    """
    length = services.settings.files.largest_file if upload.length is None else upload.length
    most = length - upload.received
    if upload.length is None and checksum is not None:
        most = min(most, MAX_CHECKED_BYTES)
    declared = find_number(request.headers, "Content-Length")
    if declared is not None and declared > most:
        raise UploadOverrun(headers=CLOSE)
    revocations = services.rules.one(RevocationList)
    stop = request.app.state.stop

    def may_go_on() -> bool:
        if revocations.is_denied(session.session_id):
            raise TokenRefused(headers=CLOSE)
        return not stop.has_begun

    pieces = read_stream(request, upload_pace(services))
    return Incoming(pieces, most=most, may_go_on=may_go_on)


async def _tell_progress(
    services: Services, upload: Upload, answer: Response, *, is_complete: bool
) -> None:
    """Make a file of what this request has made complete, and say where the upload stands."""
    if is_complete:
        await _finish(services, upload, answer)
    standing = await get_standing(services, owner_id=upload.owner_id, token=upload.token)
    _render_headers(standing, answer)


async def _finish(services: Services, upload: Upload, answer: Response) -> None:
    """As long as a caller waits; the rest is done behind the answer."""
    finishing = asyncio.create_task(finish_upload(services, upload.id), name="finish-upload")

    async def see_through() -> None:
        try:
            await finishing
        except Problem as problem:
            # Nobody waits for it any more; `GET` tells what became of it.
            log.warning("upload_not_finished", upload_id=upload.id, code=problem.code)

    try:
        await asyncio.wait({finishing}, timeout=_FINISH_SECONDS)
    except asyncio.CancelledError:
        finishing.cancel()
        raise
    if finishing.done():
        finishing.result()
    else:
        answer.background = BackgroundTask(see_through)


def _render_headers(standing: Standing, answer: Response) -> None:
    upload = standing.upload
    answer.headers["Upload-Offset"] = str(upload.received)
    if upload.length is None:
        answer.headers["Upload-Defer-Length"] = "1"
    else:
        answer.headers["Upload-Length"] = str(upload.length)
    answer.headers["Upload-Expires"] = format_datetime(upload.expires_at, usegmt=True)
    if standing.file is not None:
        answer.headers["X-File-ID"] = str(standing.file["id"])
        answer.headers["X-File-URL"] = standing.file["url"]
