"""How patient a client is. All durations are in seconds."""

from dataclasses import dataclass

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`base_urls`: further addresses of the same backend; each new attempt takes the next one."""

    base_urls: tuple[str, ...] = ()
    api_prefix: str = "/api/v1"
    request_timeout: float = 15.0
    connect_timeout: float = 5.0
    # A socket on which nothing comes this long after a ping is dead.
    pong_timeout: float = 10.0
    # Between attempts: doubled from the first to the second, each with full jitter.
    backoff_first: float = 0.25
    backoff_most: float = 15.0
    # An access token is renewed this long before it expires.
    renew_before: float = 60.0
    proxy: str | None = None
    # What carries HTTP calls, in place of httpx's own; `proxy` is then its affair. The client closes it.
    transport: httpx.AsyncBaseTransport | None = None
    user_agent: str = "messenger-client"
