"""The one list of what this server can do. A slice that is not named here does not exist."""

from app.features.account.feature import FEATURE as ACCOUNT
from app.features.audit.feature import FEATURE as AUDIT
from app.features.auth.feature import FEATURE as AUTH
from app.features.calls.feature import FEATURE as CALLS
from app.features.chats.feature import FEATURE as CHATS
from app.features.files.feature import FEATURE as FILES
from app.features.gateway.feature import FEATURE as GATEWAY
from app.features.inbox.feature import FEATURE as INBOX
from app.features.messages.feature import FEATURE as MESSAGES
from app.features.presence.feature import FEATURE as PRESENCE
from app.features.sessions.feature import FEATURE as SESSIONS
from app.features.updates.feature import FEATURE as UPDATES
from app.features.users.feature import FEATURE as USERS
from app.transport.feature import Feature

FEATURES: tuple[Feature, ...] = (
    GATEWAY,
    CALLS,
    ACCOUNT,
    INBOX,
    MESSAGES,
    CHATS,
    AUTH,
    USERS,
    FILES,
    PRESENCE,
    SESSIONS,
    AUDIT,
    UPDATES,
)
