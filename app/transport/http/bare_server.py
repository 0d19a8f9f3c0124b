"""What a bare `uvicorn app.main:app` can still be given once it has loaded the app: our protocols, no Server header,
no faith in what others say of the client.

uvicorn looks for its protocol classes and the app at each connection, and for its default headers each second.
"""

from uvicorn import Server
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.transport.http.protocol import HttpProtocol
from app.transport.websocket.protocol import AnsweringProtocol


def harden(server: Server, *, max_connections: int) -> None:
    """Deadlines, the cap and the refusals of `python -m app`. Whoever chose another protocol keeps it."""
    config = server.config
    if isinstance(config.loaded_app, ProxyHeadersMiddleware):  # pyright: ignore[reportUnknownMemberType]
        # It writes over the peer what any process of this machine says; we ask TRUSTED_PROXIES.
        config.loaded_app = config.loaded_app.app
    config.encoded_headers = [it for it in config.encoded_headers if it[0] != b"server"]
    if config.http_protocol_class is HttpToolsProtocol:
        config.http_protocol_class = HttpProtocol
        if config.limit_concurrency is None:
            config.limit_concurrency = max_connections
    if config.ws_protocol_class is WebSocketsSansIOProtocol:
        config.ws_protocol_class = AnsweringProtocol
