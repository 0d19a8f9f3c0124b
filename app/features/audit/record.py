"""Record what happened: in the transaction of a change, so that there is neither without the other."""

from dataclasses import replace

from app.infra.database.tx import Tx
from app.infra.logging.context import current_log_context
from app.kernel.events import SecurityEvent
from app.kernel.ids import SessionId, UserId


def record(tx: Tx, event: SecurityEvent) -> None:
    """Queue `event` in the transaction: a row of it is committed with the change, or not at all.

    Not for grouped writes, which run in somebody else's request.
    """
    tx.security_events.append(complete(event))


def complete(event: SecurityEvent) -> SecurityEvent:
    """With the address, the id, the person and the session of the request at hand, where it names none itself.
    An event about somebody else than who asks is not of that session.
    """
    context = current_log_context()
    if context is None:
        return event
    user_id, session_id = event.user_id, event.session_id
    if user_id is None and context.user_id is not None:
        user_id = UserId(context.user_id)
    if session_id is None and user_id == context.user_id and context.session_id is not None:
        session_id = SessionId(context.session_id)
    return replace(
        event,
        user_id=user_id,
        session_id=session_id,
        address=event.address or context.address,
        request_id=event.request_id or context.request_id,
    )
