"""The adapters of a running server, put together once by the composition root and passed down."""

from dataclasses import dataclass

from app.infra.bus.port import Bus
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.limits.port import Limiter
from app.infra.media.processor import MediaProcessor
from app.infra.presence.port import PresenceStore
from app.infra.scanner.port import Scanner
from app.infra.sms.port import SmsSender
from app.infra.storage.port import Storage
from app.infra.tokens.access import AccessTokens
from app.kernel.clock import Clock
from app.kernel.cursors import CursorCodec
from app.kernel.events import EventSink
from app.kernel.rules import Rules
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Handed to routes, frame handlers and jobs, which unpack what their use case needs."""

    settings: Settings
    clock: Clock
    db: Database
    keyring: Keyring
    index: BlindIndex
    cursors: CursorCodec
    tokens: AccessTokens
    sms: SmsSender
    bus: Bus
    presence: PresenceStore
    limiter: Limiter
    events: EventSink
    rules: Rules
    storage: Storage
    media: MediaProcessor
    # None: uploads are not searched.
    scanner: Scanner | None
