"""HTTP of the account as a whole: deleting it, and taking along what is in it."""

from typing import Annotated

from fastapi import Query, Response
from starlette.responses import StreamingResponse

from app.features.account.delete_account import delete_account
from app.features.account.export import begin_export
from app.features.account.schemas import AccountExport
from app.features.sessions.dependencies import CurrentSessionDep
from app.transport.http.answers import JSON_MEDIA_TYPE, no_content
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import QueryFlag
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter

router = SliceRouter(prefix="/users", tags=["Users"])


@router.delete("/me", status_code=204, responses=problem_responses(401, 403))
async def delete_me(
    services: ServicesDep,
    session: CurrentSessionDep,
    *,
    keep_messages: Annotated[
        QueryFlag,
        Query(description="Leave my messages and private chats to others, under a deleted sender."),
    ] = False,
) -> Response:
    """Delete my account. At once all my devices are signed out and nothing of my profile is left; then
    my messages and private chats are deleted for everyone. Chats that I own pass to the oldest admin,
    else the oldest member. Wants fresh authentication.
    """
    await delete_account(services, caller=session, keep_messages=keep_messages)
    return no_content()


@router.get("/me/export", response_model=AccountExport, responses=problem_responses(401, 403, 429))
async def export_me(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """Everything that is kept about me, to take along; three times a day at most. Wants fresh
    authentication. A document without its end was cut off.
    """
    chunks = await begin_export(services, caller=session)
    headers = {"Content-Disposition": 'attachment; filename="account.json"'}
    return StreamingResponse(chunks, media_type=JSON_MEDIA_TYPE, headers=headers)
