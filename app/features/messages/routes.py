"""HTTP of messages: send, forward, history, edit, delete, read marks."""

from typing import Annotated

from fastapi import Query, Response

from app.features.messages.delete import delete_for_everyone, delete_for_me
from app.features.messages.edit import edit_message
from app.features.messages.history import Position, list_history, read_message
from app.features.messages.limits import count_send
from app.features.messages.post import dump_entities, post_message
from app.features.messages.read import mark_read
from app.features.messages.schemas import (
    DeletedMessage,
    EditMessage,
    HistoryPage,
    MarkRead,
    Message,
    MessageItems,
    SendMessage,
)
from app.features.sessions.dependencies import CurrentSessionDep
from app.kernel.problems import FieldError, Invalid
from app.transport.http.answers import created, no_content, ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import (
    DEFAULT_LIMIT,
    ChatIdPath,
    Limit,
    MessageIdPath,
    QueryFlag,
)
from app.transport.http.limits import AnswerHeadersDep, limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/messages", tags=["Messages"])
chats_router = SliceRouter(prefix="/chats", tags=["Messages"])

_REPEATED = {200: {"model": Message | DeletedMessage | MessageItems, "description": "A repeat."}}


@router.post(
    "/",
    status_code=201,
    response_model=Message | DeletedMessage | MessageItems,
    responses={**_REPEATED, **problem_responses(401, 403, 404, 409)},
)
@limited_by(LimitClass.SENDS)
async def send(
    services: ServicesDep,
    session: CurrentSessionDep,
    answer_headers: AnswerHeadersDep,
    body: SendMessage,
) -> Response:
    """Say something, or forward what was said elsewhere. With a `client_message_id` it is safe to
    retry: a repeat answers 200 with the message as it is now, be it a tombstone. A forward of
    several answers `{items}`, 201 if any of them is new.

    Blocked in a private chat: 403 `not_allowed`; who has blocked the other one: 403 `peer_blocked`.
    """
    answer_headers.update(await count_send(services, session.user_id, body))
    posted = await post_message(services.db, services.keyring, sender_id=session.user_id, body=body)
    return created(posted.answer) if posted.created else ok(posted.answer)


@router.get("/chat/{chat_id}", response_model=HistoryPage, responses=problem_responses(401, 404))
async def read_history(  # noqa: PLR0917 - FastAPI calls it by name
    services: ServicesDep,
    session: CurrentSessionDep,
    chat_id: ChatIdPath,
    before: Annotated[MessageIdPath | None, Query()] = None,
    after: Annotated[MessageIdPath | None, Query()] = None,
    around: Annotated[MessageIdPath | None, Query()] = None,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
) -> Response:
    """Messages of a chat, newest first, without deleted ones. `before`, `after` and `around` are
    message ids, at most one of them; the message itself need not exist, and is part of the page
    only with `around`.
    """
    given = {"before": before, "after": after, "around": around}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise Invalid(errors=[FieldError(name, "give one of the three") for name in names])
    page = await list_history(
        services.db,
        services.keyring,
        reader_id=session.user_id,
        chat_id=chat_id,
        position=Position(before=before, after=after, around=around),
        limit=limit,
    )
    return ok(page)


@router.get(
    "/{message_id}",
    response_model=Message | DeletedMessage,
    responses=problem_responses(401, 404),
)
async def read_one(
    services: ServicesDep, session: CurrentSessionDep, message_id: MessageIdPath
) -> Response:
    """One message, or its tombstone."""
    return ok(
        await read_message(
            services.db, services.keyring, reader_id=session.user_id, message_id=message_id
        )
    )


@router.put("/{message_id}", response_model=Message, responses=problem_responses(401, 403, 404))
async def edit(
    services: ServicesDep,
    session: CurrentSessionDep,
    message_id: MessageIdPath,
    body: EditMessage,
) -> Response:
    """Change a text of mine while I may still write there. Forwards are not edited."""
    message = await edit_message(
        services.db,
        services.keyring,
        editor_id=session.user_id,
        message_id=message_id,
        text=body.text,
        entities=dump_entities(body.entities),
    )
    return ok(message)


@router.delete("/{message_id}", status_code=204, responses=problem_responses(401, 403, 404))
async def delete(
    services: ServicesDep,
    session: CurrentSessionDep,
    message_id: MessageIdPath,
    for_everyone: Annotated[QueryFlag, Query()] = False,  # noqa: FBT002 - the contract's default
) -> Response:
    """Delete a message for me alone, or for everyone: mine, others' only with `delete_messages`."""
    remove = delete_for_everyone if for_everyone else delete_for_me
    await remove(services.db, user_id=session.user_id, message_id=message_id)
    return no_content()


@chats_router.post("/{chat_id}/read", status_code=204, responses=problem_responses(401, 404))
@limited_by(LimitClass.READS)
async def mark(
    services: ServicesDep, session: CurrentSessionDep, chat_id: ChatIdPath, body: MarkRead
) -> Response:
    """Move my read mark forward, never back."""
    await mark_read(
        services.db, user_id=session.user_id, chat_id=chat_id, message_id=body.message_id
    )
    return no_content()
