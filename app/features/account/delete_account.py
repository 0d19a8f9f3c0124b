"""Deleting one's account: from the commit on nobody can sign in to it or read who it was.

What it left in chats is erased afterwards, see `erase.py`.
"""

from sqlalchemy import insert, select

from app.features.account.models import ErasureRow
from app.features.audit.record import record
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.end import end_all_sessions
from app.features.sessions.fresh import require_fresh
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.features.users.models import UserRow
from app.infra.cipher.keyring import user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.events import SecurityEvent
from app.kernel.scopes import user_scope
from app.transport.personal_data import Leaver, PersonalData


async def delete_account(
    services: Services, *, caller: CurrentSession, keep_messages: bool
) -> None:
    """Raises:
    fresh_authentication_required, token_invalid
    """
    user_id = caller.user_id

    async def work(tx: Tx) -> None:
        phone_index = await tx.scalar(select(UserRow.phone_index).where(UserRow.id == user_id))
        if phone_index is not None:
            # Whoever verifies a code for this number right now finds either the account as it was,
            # and its session ends here, or none.
            await tx.lock_names([f"phone:{phone_index.hex()}"])
        log = await lock_scopes(tx, [user_scope(user_id)])
        minutes = services.settings.two_step.fresh_minutes
        await require_fresh(tx, session_id=caller.session_id, minutes=minutes)
        leaver = Leaver(user_id=user_id, keep_messages=keep_messages, phone_index=phone_index)
        await tx.execute(
            insert(ErasureRow).values(
                user_id=user_id, keep_messages=keep_messages, asked_at=tx.now, due_at=tx.now
            )
        )
        revocations = services.rules.one(RevocationList)
        await end_all_sessions(tx, log, revocations=revocations, user_id=user_id)
        await forget(tx, services, leaver)
        details = {"keep_messages": keep_messages}
        record(tx, SecurityEvent("account_deleted", user_id, caller.session_id, details))

    await services.db.write(work)


async def forget(tx: Tx, services: Services, leaver: Leaver) -> None:
    """What is the person's alone, and their key; the lower slices first."""
    for rule in reversed(services.rules.all(PersonalData)):
        await rule.forget(tx, services, leaver)
    await services.keyring.destroy(tx, [user_key(leaver.user_id)])
    # No worker keeps it in memory for longer than its lease either.
    await services.keyring.tell_all(tx)
