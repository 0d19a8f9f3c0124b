"""The gateway: sockets, replays, the difference."""

from app.features.gateway.routes import router, socket_router
from app.transport.feature import Feature

FEATURE = Feature(name="gateway", routers=(socket_router, router))
