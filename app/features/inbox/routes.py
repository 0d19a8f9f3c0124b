"""HTTP of the chat list, and of all that answers a chat as I see it."""

from typing import Annotated, cast

from fastapi import Body, Path, Query, Response

from app.features.chats.changes import Tools
from app.features.chats.create import NewChat as NewSharedChat
from app.features.chats.create import create_chat, create_private_chat
from app.features.chats.join import join_chat
from app.features.chats.join_by_invite import join_by_invite
from app.features.chats.outreach import count_first_contact, count_outreach
from app.features.chats.policy import ChatType
from app.features.chats.schemas import (
    InviteCode,
    NewChannel,
    NewChat,
    NewGroup,
    NewPrivateChat,
    UpdateChat,
    Username,
)
from app.features.chats.update import ChatChanges, update_chat
from app.features.inbox.change_settings import SettingsChanges, change_chat_settings
from app.features.inbox.get_chat import get_chat, get_public_chat
from app.features.inbox.items import ItemView, render_items
from app.features.inbox.list_chats import list_chats
from app.features.inbox.schemas import ChatItem, ChatPage, UpdateSettings
from app.features.sessions.dependencies import CurrentSessionDep
from app.infra.services import Services
from app.kernel.ids import ChatId, UserId
from app.transport.http.answers import created, ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import DEFAULT_LIMIT, ChatIdPath, Cursor, Limit, QueryFlag
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter

router = SliceRouter(prefix="/chats", tags=["Chats"])
invites_router = SliceRouter(prefix="/invites", tags=["Chats"])


@router.get("/", response_model=ChatPage, responses=problem_responses(401))
async def read_chats(
    services: ServicesDep,
    session: CurrentSessionDep,
    *,
    archived: Annotated[QueryFlag, Query()] = False,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """My chats: pinned ones first, then by newest message, then by id, all descending."""
    page, next_cursor = await list_chats(
        services.db,
        services.keyring,
        services.cursors,
        viewer=session.user_id,
        archived=archived,
        cursor=cursor,
        limit=limit,
    )
    return ok({"items": await render_items(services.presence, page), "next_cursor": next_cursor})


@router.post(
    "/",
    status_code=201,
    response_model=ChatItem,
    responses={200: {"model": ChatItem, "description": "The private chat that there was."}}
    | problem_responses(401, 403, 404, 409),
)
async def post_chat(
    services: ServicesDep, session: CurrentSessionDep, body: Annotated[NewChat, Body()]
) -> Response:
    """Open a private chat (the one there is, or a new one), or make a group or channel."""
    tools = Tools.of(services)
    is_new = True
    if isinstance(body, NewPrivateChat):
        await count_first_contact(services, session.user_id, body.user_id)
        chat_id, is_new = await create_private_chat(
            services.db, tools, user_id=session.user_id, peer_id=body.user_id
        )
    else:
        await count_outreach(services, session.user_id)
        chat_id = await create_chat(
            services.db, tools, owner_id=session.user_id, new=_new_chat(body)
        )
    item = await _item(services, session.user_id, chat_id)
    return created(item) if is_new else ok(item)


@router.get("/resolve", response_model=ChatItem, responses=problem_responses(401, 404))
async def resolve(
    services: ServicesDep,
    session: CurrentSessionDep,
    username: Annotated[Username, Query()],
) -> Response:
    """A public chat by its username, also if I am not in it."""
    loaded = await get_public_chat(
        services.db, services.keyring, viewer=session.user_id, username=username
    )
    [item] = await render_items(services.presence, [loaded])
    return ok(item)


@router.get("/{chat_id}", response_model=ChatItem, responses=problem_responses(401, 404))
async def read_chat(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath
) -> Response:
    """A chat that I am in."""
    return ok(await _item(services, session.user_id, chat_id))


@router.put("/{chat_id}", response_model=ChatItem, responses=problem_responses(401, 403, 404, 409))
async def put_chat(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath, body: UpdateChat
) -> Response:
    """Change a group or channel, as far as my rights go."""
    await update_chat(
        services.db,
        Tools.of(services),
        user_id=session.user_id,
        chat_id=chat_id,
        changes=cast("ChatChanges", body.model_dump(exclude_unset=True)),
    )
    return ok(await _item(services, session.user_id, chat_id))


@router.put(
    "/{chat_id}/settings", response_model=ChatItem, responses=problem_responses(401, 404, 409)
)
async def put_settings(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath, body: UpdateSettings
) -> Response:
    """Pin, archive or mute a chat, for me alone."""
    await change_chat_settings(
        services.db,
        user_id=session.user_id,
        chat_id=chat_id,
        changes=cast("SettingsChanges", body.model_dump(exclude_unset=True)),
    )
    return ok(await _item(services, session.user_id, chat_id))


@router.post(
    "/{chat_id}/join",
    status_code=200,
    response_model=ChatItem,
    responses=problem_responses(401, 403, 404, 409),
)
async def join(services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath) -> Response:
    """Join a public group or channel."""
    await join_chat(services.db, Tools.of(services), user_id=session.user_id, chat_id=chat_id)
    return ok(await _item(services, session.user_id, chat_id))


@invites_router.post(
    "/{code}/join",
    status_code=200,
    response_model=ChatItem,
    responses=problem_responses(401, 403, 404, 409),
)
async def join_invited(
    services: ServicesDep, session: CurrentSessionDep, code: Annotated[InviteCode, Path()]
) -> Response:
    """Join by an invite link; if I am in the chat already, nothing of the link is used up."""
    chat_id = await join_by_invite(
        services.db, Tools.of(services), user_id=session.user_id, code=code
    )
    return ok(await _item(services, session.user_id, chat_id))


async def _item(services: Services, viewer: UserId, chat_id: ChatId) -> ItemView:
    loaded = await get_chat(services.db, services.keyring, viewer=viewer, chat_id=chat_id)
    [item] = await render_items(services.presence, [loaded])
    return item


def _new_chat(body: NewGroup | NewChannel) -> NewSharedChat:
    return NewSharedChat(
        type=ChatType.GROUP if isinstance(body, NewGroup) else ChatType.CHANNEL,
        title=body.title,
        description=body.description,
        username=body.username,
        member_ids=tuple(body.member_ids),
        history_visible=body.history_visible,
        photo_id=body.photo,
    )
