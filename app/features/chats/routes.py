"""HTTP of chats: deleting and leaving, members, invite links. What answers a whole chat is in `inbox`."""

from typing import Annotated

from fastapi import Path, Query, Response

from app.features.chats.add_members import add_members
from app.features.chats.change_member import NewRole, change_member
from app.features.chats.changes import Tools
from app.features.chats.create_invite import create_invite
from app.features.chats.delete import delete_chat
from app.features.chats.leave import leave_chat
from app.features.chats.list_invites import list_chat_invites
from app.features.chats.list_members import list_chat_members
from app.features.chats.outreach import count_outreach
from app.features.chats.policy import Role, permissions_of
from app.features.chats.preview_invite import preview_invite
from app.features.chats.remove_member import remove_member
from app.features.chats.revoke_invite import revoke_chat_invite
from app.features.chats.schemas import (
    AddedMembers,
    AddMembers,
    ChangeMember,
    Invite,
    InviteCode,
    InvitePage,
    InvitePreview,
    Member,
    MemberFilterWord,
    MemberPage,
    NewInvite,
)
from app.features.sessions.dependencies import CurrentSessionDep
from app.transport.http.answers import created, no_content, ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import (
    DEFAULT_LIMIT,
    ChatIdPath,
    Cursor,
    Limit,
    QueryFlag,
    UserIdPath,
)
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter

router = SliceRouter(prefix="/chats", tags=["Chats"])
invites_router = SliceRouter(prefix="/invites", tags=["Chats"])

_NO_LIMITS = NewInvite()


@router.delete("/{chat_id}", status_code=204, responses=problem_responses(401, 403, 404))
async def remove_chat(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    *,
    for_everyone: Annotated[
        QueryFlag, Query(description="Also for the other one of a private chat.")
    ] = False,
) -> Response:
    """Delete a group or channel that I own, or empty a private chat and take it off my list."""
    await delete_chat(
        services.db,
        Tools.of(services),
        user_id=session.user_id,
        chat_id=chat_id,
        for_everyone=for_everyone,
    )
    return no_content()


@router.post("/{chat_id}/leave", status_code=204, responses=problem_responses(401, 403, 404, 409))
async def leave(services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath) -> Response:
    """Leave a group or channel. An owner hands it over first."""
    await leave_chat(services.db, Tools.of(services), user_id=session.user_id, chat_id=chat_id)
    return no_content()


@router.get(
    "/{chat_id}/members", response_model=MemberPage, responses=problem_responses(401, 403, 404)
)
async def read_members(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    *,
    which: Annotated[MemberFilterWord, Query(alias="filter")] = "all",
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """Who is in the chat, by user id; in a channel only its owner and admins may know. `banned` asks
    for the right to ban.
    """
    items, next_cursor = await list_chat_members(
        services.db,
        services.keyring,
        services.cursors,
        viewer=session.user_id,
        chat_id=chat_id,
        which=which,
        cursor=cursor,
        limit=limit,
    )
    return ok({"items": items, "next_cursor": next_cursor})


@router.post(
    "/{chat_id}/members",
    status_code=201,
    response_model=AddedMembers,
    responses=problem_responses(401, 403, 404, 409),
)
async def post_members(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath, body: AddMembers
) -> Response:
    """Add people. Whoever has blocked me, does not let me add them or is banned here is left out;
    if that is all of them, the answer is a refusal.
    """
    await count_outreach(services, session.user_id)
    added = await add_members(
        services.db,
        Tools.of(services),
        actor_id=session.user_id,
        chat_id=chat_id,
        user_ids=body.user_ids,
    )
    return created({"items": added.members, "not_added": added.not_added})


@router.put(
    "/{chat_id}/members/{user_id}",
    response_model=Member,
    responses=problem_responses(401, 403, 404, 409),
)
async def put_member(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    user_id: UserIdPath,
    body: ChangeMember,
) -> Response:
    """Promote, demote, restrict, ban, put out, let in again, or hand the chat over. Nobody grants
    what they lack.
    """
    permissions = None if body.permissions is None else permissions_of(body.permissions)
    member = await change_member(
        services.db,
        Tools.of(services),
        actor_id=session.user_id,
        chat_id=chat_id,
        user_id=user_id,
        wanted=NewRole(role=Role(body.role), permissions=permissions, until=body.until),
    )
    return ok(member)


@router.delete(
    "/{chat_id}/members/{user_id}",
    status_code=204,
    responses=problem_responses(401, 403, 404, 409),
)
async def delete_member(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath, user_id: UserIdPath
) -> Response:
    """Put somebody out; myself: leave."""
    await remove_member(
        services.db,
        Tools.of(services),
        actor_id=session.user_id,
        chat_id=chat_id,
        user_id=user_id,
    )
    return no_content()


@router.get(
    "/{chat_id}/invites", response_model=InvitePage, responses=problem_responses(401, 403, 404)
)
async def read_invites(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """Invite links that were not revoked, the newest first; for those who may invite."""
    items, next_cursor = await list_chat_invites(
        services.db,
        services.cursors,
        viewer=session.user_id,
        chat_id=chat_id,
        cursor=cursor,
        limit=limit,
    )
    return ok({"items": items, "next_cursor": next_cursor})


@router.post(
    "/{chat_id}/invites",
    status_code=201,
    response_model=Invite,
    responses=problem_responses(401, 403, 404, 409),
)
async def post_invite(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    body: NewInvite = _NO_LIMITS,
) -> Response:
    """Make an invite link."""
    await count_outreach(services, session.user_id)
    invite = await create_invite(
        services.db,
        user_id=session.user_id,
        chat_id=chat_id,
        expires_at=body.expires_at,
        max_uses=body.max_uses,
    )
    return created(invite)


@router.delete(
    "/{chat_id}/invites/{code}", status_code=204, responses=problem_responses(401, 403, 404)
)
async def delete_invite(
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    code: Annotated[InviteCode, Path()],
) -> Response:
    """Revoke an invite link."""
    await revoke_chat_invite(services.db, user_id=session.user_id, chat_id=chat_id, code=code)
    return no_content()


@invites_router.get(
    "/{code}", response_model=InvitePreview, responses=problem_responses(401, 403, 404)
)
async def read_invite(
    services: ServicesDep, session: CurrentSessionDep, code: Annotated[InviteCode, Path()]
) -> Response:
    """What an invite link leads to."""
    return ok(
        await preview_invite(services.db, services.keyring, viewer=session.user_id, code=code)
    )
