"""HTTP of sessions: refresh, logout, my devices, tickets."""

from typing import Annotated

from fastapi import Query, Request, Response

from app.features.sessions.cookies import TokenDelivery, clear_cookies, set_csrf_cookie
from app.features.sessions.csrf import make_csrf_token
from app.features.sessions.dependencies import (
    CsrfSessionDep,
    CurrentSessionDep,
    take_refresh_cookie,
)
from app.features.sessions.end import end_other_sessions, end_session, log_out
from app.features.sessions.fresh import FreshSessionDep
from app.features.sessions.list import list_sessions
from app.features.sessions.refresh import refresh_session
from app.features.sessions.revocations import RevocationList
from app.features.sessions.rules import ChatDoor
from app.features.sessions.schemas import (
    CookieTokens,
    CsrfToken,
    RefreshToken,
    SessionList,
    Ticket,
    TicketRequest,
    TokenPair,
)
from app.features.sessions.tickets import TICKET_LIFETIME, create_ticket
from app.transport.http.answers import created, no_content, ok
from app.transport.http.client_address import ClientAddressDep
from app.transport.http.dependencies import ServicesDep
from app.transport.http.fields import DEFAULT_LIMIT, Cursor, Limit, SessionIdPath
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter

router = SliceRouter(prefix="/auth", tags=["Auth"])


@router.post(
    "/refresh-token", response_model=TokenPair | CookieTokens, responses=problem_responses(401, 403)
)
async def refresh_token(
    services: ServicesDep,
    request: Request,
    address: ClientAddressDep,
    body: RefreshToken | None = None,
) -> Response:
    """Exchange a refresh token for a new pair. After a lost answer the same token may be sent once
    more within 30 s; any other replay of a used token ends the session. Without a body the token is
    that of the cookie, and the new ones are cookies again.
    """
    by_cookie = body is None
    token = await take_refresh_cookie(services, request) if by_cookie else body.refresh_token
    tokens = await refresh_session(
        services.db,
        services.keyring,
        tokens=services.tokens,
        revocations=services.rules.one(RevocationList),
        limits=services.settings.tokens,
        refresh_token=token,
        address=address,
    )
    return TokenDelivery(services, request, by_cookie=by_cookie).answer(tokens)


@router.post("/logout", status_code=204, responses=problem_responses(401))
async def logout(services: ServicesDep, request: Request, session: CurrentSessionDep) -> Response:
    """End this session: its tokens and sockets die everywhere within a second."""
    await log_out(
        services.db,
        services.rules.one(RevocationList),
        user_id=session.user_id,
        session_id=session.session_id,
    )
    answer = no_content()
    clear_cookies(services, request, answer)
    return answer


@router.get("/csrf", response_model=CsrfToken, responses=problem_responses(401))
async def get_csrf_token(
    services: ServicesDep, request: Request, session_id: CsrfSessionDep
) -> Response:
    """A new CSRF token of this browser's session, in its cookie too. For pages of another origin in
    CORS_ORIGINS, which cannot read our cookies.
    """
    token = make_csrf_token(services, session_id)
    answer = ok({"csrf_token": token})
    set_csrf_cookie(services, request, answer, token)
    return answer


@router.get("/sessions", response_model=SessionList, responses=problem_responses(401))
async def get_sessions(
    services: ServicesDep,
    session: CurrentSessionDep,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[Cursor | None, Query()] = None,
) -> Response:
    """My signed-in devices, the newest first. There are at most 50: one more sign-in ends the one
    that was unused for longest.
    """
    page = await list_sessions(
        services.db,
        services.keyring,
        services.cursors,
        caller=session,
        limit=limit,
        cursor=cursor,
    )
    return ok(page)


@router.delete(
    "/sessions/{session_id}", status_code=204, responses=problem_responses(401, 403, 404)
)
async def delete_session(
    services: ServicesDep, session: FreshSessionDep, session_id: SessionIdPath
) -> Response:
    """Sign one of my devices out. Wants fresh authentication, or a thief of this one could sign the
    owner out.
    """
    await end_session(
        services.db,
        services.rules.one(RevocationList),
        user_id=session.user_id,
        session_id=session_id,
    )
    return no_content()


@router.delete("/sessions", status_code=204, responses=problem_responses(401, 403))
async def delete_other_sessions(services: ServicesDep, session: FreshSessionDep) -> Response:
    """Sign all my other devices out. Wants fresh authentication."""
    await end_other_sessions(
        services.db,
        services.rules.one(RevocationList),
        user_id=session.user_id,
        session_id=session.session_id,
    )
    return no_content()


@router.post(
    "/ws-ticket",
    status_code=201,
    response_model=Ticket,
    responses=problem_responses(401, 404, 429),
)
async def post_ticket(
    services: ServicesDep, session: CurrentSessionDep, body: TicketRequest | None = None
) -> Response:
    """A single-use ticket for `/ws/{ticket}`, or with `chat_id` for
    `/ws/chat/{chat_id}/{ticket}`.
    """
    ticket = await create_ticket(
        services.db,
        services.rules.all(ChatDoor),
        session_id=session.session_id,
        chat_id=body.chat_id if body else None,
    )
    seconds = int(TICKET_LIFETIME.total_seconds())
    return created({"ticket": ticket, "expires_in": seconds})
