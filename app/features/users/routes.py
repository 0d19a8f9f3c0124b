"""HTTP of people: me, my privacy, search, contacts, blocks, profiles."""

from typing import Annotated, cast

from fastapi import Query, Response

from app.features.sessions.dependencies import CurrentSessionDep
from app.features.users.block import Blocked, block_user
from app.features.users.contacts import render_contacts
from app.features.users.delete_contact import delete_contact
from app.features.users.import_contacts import Entry, import_contacts
from app.features.users.list_blocked import BlockedPosition, list_blocked
from app.features.users.list_contacts import list_contacts
from app.features.users.me import get_me
from app.features.users.policy import Audience, render_privacy
from app.features.users.privacy import get_privacy, update_privacy
from app.features.users.profile import get_profile
from app.features.users.rules import AcquaintanceRule
from app.features.users.schemas import (
    BlockedPage,
    BlockedUser,
    ContactPage,
    ImportContacts,
    ImportedContacts,
    Me,
    PrivacySettings,
    UpdateMe,
    UpdatePrivacy,
    User,
    UserPage,
)
from app.features.users.search import Search, search_users
from app.features.users.unblock import unblock_user
from app.features.users.update_profile import ProfileChanges, update_profile
from app.features.users.views import render_profiles
from app.infra.presence.port import PresenceStore
from app.kernel.clock import format_time, from_milliseconds, to_milliseconds
from app.kernel.ids import UserId
from app.transport.http.answers import no_content, ok
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import DEFAULT_LIMIT, Cursor, Limit, UserIdPath
from app.transport.http.limits import limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/users", tags=["Users"])

_CONTACTS = "contacts"
_BLOCKED = "blocked"


@router.get("/me", response_model=Me, responses=problem_responses(401))
async def read_me(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """My own account."""
    return ok(await get_me(services.db, services.keyring, user_id=session.user_id))


@router.put("/me", response_model=Me, responses=problem_responses(401, 404, 409))
async def change_me(services: ServicesDep, session: CurrentSessionDep, body: UpdateMe) -> Response:
    """Change any of these; others see it when they read me next. Texts are kept exactly as sent."""
    me = await update_profile(
        services.db,
        services.keyring,
        services.index,
        user_id=session.user_id,
        changes=cast("ProfileChanges", body.model_dump(exclude_unset=True)),
    )
    return ok(me)


@router.get("/me/privacy", response_model=PrivacySettings, responses=problem_responses(401))
async def read_privacy(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """Who sees and reaches me."""
    return ok(render_privacy(await get_privacy(services.db, user_id=session.user_id)))


@router.put("/me/privacy", response_model=PrivacySettings, responses=problem_responses(401))
async def change_privacy(
    services: ServicesDep, session: CurrentSessionDep, body: UpdatePrivacy
) -> Response:
    """Change any of these. At first contacts see my phone, and everyone the rest."""
    words: dict[str, str] = body.model_dump(exclude_unset=True)
    changes = {name: Audience(word) for name, word in words.items()}
    return ok(
        render_privacy(await update_privacy(services.db, user_id=session.user_id, changes=changes))
    )


@router.get("/search", response_model=UserPage, responses=problem_responses(401, 429))
@limited_by(LimitClass.SEARCH)
async def search(
    services: ServicesDep,
    session: CurrentSessionDep,
    q: Annotated[str, Query(min_length=1, max_length=100)],
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
) -> Response:
    """People by the beginning of a username (three characters or more), by words of the name among
    contacts and people in shared groups, and by exact phone where its owner allows. At most 50.
    """
    people = services.settings.people
    wanted = Search(
        viewer=session.user_id,
        query=q,
        limit=limit,
        directory=people.user_directory,
        lookups_per_day=people.lookups_per_day,
    )
    found = await search_users(
        services.db,
        services.keyring,
        services.index,
        search=wanted,
        rules=services.rules.all(AcquaintanceRule),
    )
    items = await render_profiles(services.presence, found.profiles)
    answer = ok({"items": items, "next_cursor": None})
    if found.budget is not None:
        answer.headers.update(found.budget.headers)
    return answer


@router.get("/contacts", response_model=ContactPage, responses=problem_responses(401))
async def read_contacts(
    services: ServicesDep,
    session: CurrentSessionDep,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """My contacts in the order of adding."""
    position = services.cursors.decode(_CONTACTS, cursor) if cursor else [0]
    contacts, last = await list_contacts(
        services.db,
        services.keyring,
        owner=session.user_id,
        after=cast("int", position[0]),
        limit=limit,
    )
    next_cursor = None if last is None else services.cursors.encode(_CONTACTS, [last])
    items = await render_contacts(services.presence, contacts)
    return ok({"items": items, "next_cursor": next_cursor})


@router.post(
    "/contacts",
    status_code=200,
    response_model=ImportedContacts,
    responses=problem_responses(401, 409, 429),
)
@limited_by(LimitClass.CONTACT_IMPORT)
async def post_contacts(
    services: ServicesDep, session: CurrentSessionDep, body: ImportContacts
) -> Response:
    """Keep as contacts whoever has one of these numbers, under my own names for them. A number
    whose owner hides from it counts as not found.
    """
    entries = [
        Entry(phone=entry.phone, first_name=entry.first_name, last_name=entry.last_name)
        for entry in body.contacts
    ]
    imported = await import_contacts(
        services.db,
        services.keyring,
        services.index,
        owner=session.user_id,
        entries=entries,
        lookups_per_day=services.settings.people.lookups_per_day,
    )
    items = await render_contacts(services.presence, imported.contacts)
    answer = ok({"items": items, "not_found_count": imported.not_found_count})
    answer.headers.update(imported.budget.headers)
    return answer


@router.delete("/contacts/{user_id}", status_code=204, responses=problem_responses(401, 404))
async def remove_contact(
    services: ServicesDep, session: CurrentSessionDep, user_id: UserIdPath
) -> Response:
    """Take a user out of my contacts."""
    await delete_contact(services.db, owner=session.user_id, user_id=user_id)
    return no_content()


@router.get("/blocked", response_model=BlockedPage, responses=problem_responses(401))
async def read_blocked(
    services: ServicesDep,
    session: CurrentSessionDep,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """Whom I have blocked, the latest first."""
    before = None
    if cursor:
        moment, user_id = cast("list[int]", services.cursors.decode(_BLOCKED, cursor))
        before = BlockedPosition(from_milliseconds(moment), UserId(user_id))
    blocked, last = await list_blocked(
        services.db, services.keyring, blocker=session.user_id, before=before, limit=limit
    )
    next_cursor = None
    if last is not None:
        position = [to_milliseconds(last.blocked_at), last.user_id]
        next_cursor = services.cursors.encode(_BLOCKED, position)
    items = await _render_blocked(services.presence, blocked)
    return ok({"items": items, "next_cursor": next_cursor})


@router.put(
    "/blocked/{user_id}", response_model=BlockedUser, responses=problem_responses(401, 404, 409)
)
async def put_blocked(
    services: ServicesDep, session: CurrentSessionDep, user_id: UserIdPath
) -> Response:
    """Block a user, who keeps the old private chat but can no longer write, call or add me, and
    sees of my photo and presence what nobody sees.
    """
    blocked = await block_user(
        services.db, services.keyring, blocker=session.user_id, user_id=user_id
    )
    [item] = await _render_blocked(services.presence, [blocked])
    return ok(item)


@router.delete("/blocked/{user_id}", status_code=204, responses=problem_responses(401, 404))
async def remove_blocked(
    services: ServicesDep, session: CurrentSessionDep, user_id: UserIdPath
) -> Response:
    """Unblock a user."""
    await unblock_user(services.db, blocker=session.user_id, user_id=user_id)
    return no_content()


@router.get("/{user_id}", response_model=User, responses=problem_responses(401, 404))
async def read_user(
    services: ServicesDep, session: CurrentSessionDep, user_id: UserIdPath
) -> Response:
    """A person as I may see them."""
    profile = await get_profile(
        services.db, services.keyring, viewer=session.user_id, user_id=user_id
    )
    [item] = await render_profiles(services.presence, [profile])
    return ok(item)


async def _render_blocked(
    presence: PresenceStore, blocked: list[Blocked]
) -> list[dict[str, object]]:
    views = await render_profiles(presence, [it.profile for it in blocked])
    return [
        {**view, "blocked_at": format_time(it.blocked_at)}
        for it, view in zip(blocked, views, strict=True)
    ]
