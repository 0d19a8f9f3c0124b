"""What the chat list adds to the server."""

from app.features.inbox.routes import invites_router, router
from app.features.inbox.updates import fill_chat_created, fill_chat_settings
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, UpdateKind

FEATURE = Feature(
    name="inbox",
    routers=(router, invites_router),
    updates=(
        UpdateKind("chat_created", ScopeKind.USER, fill_chat_created),
        UpdateKind("chat_settings", ScopeKind.USER, fill_chat_settings),
    ),
)
