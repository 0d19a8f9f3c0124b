"""The gateway of one worker: its parts put together, started and stopped."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from app.features.gateway.catchup import CatchUp
from app.features.gateway.fanout import TOPIC, Fanout
from app.features.gateway.following import Follower
from app.features.gateway.news import PresenceNews
from app.features.gateway.readers import CourseLeader, LogReader
from app.features.gateway.replay import Replayer
from app.features.presence.keeper import PresenceKeeper
from app.features.sessions.revocations import RevocationList
from app.features.updates.epoch import load_epoch
from app.features.updates.read import UpdateKinds
from app.features.updates.signals import TOPIC as SIGNALS
from app.features.updates.signals import parse_signal
from app.infra.services import Services
from app.kernel.ids import SessionId
from app.kernel.problems import Problem
from app.transport.feature import FrameKind
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import SILENT
from app.transport.websocket.outgoing import OutFrame

_SWEEP_SECONDS = 1.0
_EPOCH_SECONDS = 5.0
_FAREWELL_SECONDS = 0.1
_log = logging.getLogger(__name__)


class Gateway:
    """Made before the bus starts; `start` begins to deliver."""

    def __init__(
        self,
        services: Services,
        *,
        kinds: UpdateKinds,
        frames: Mapping[str, FrameKind],
        epoch: str,
    ) -> None:
        self.services = services
        self.kinds = kinds
        self.frames = frames
        self.is_stopping = False
        self._fanout = Fanout(services.bus, _call_later)
        self.leader = CourseLeader(services, kinds, self._is_of_epoch)
        replayer = Replayer(self._fanout, self.leader.begin)
        follower = Follower(self._fanout, replayer)
        self._fanout.on_handed_out = follower.apply
        replayer.on_replayed = follower.note_replayed
        replayer.on_released = follower.apply_held
        self._reader = LogReader(services, kinds, self._fanout, follower)
        self.hub = self._fanout.hub
        self.catchup = CatchUp(
            self._fanout,
            replayer,
            epoch=epoch,
            clock=services.clock,
            heartbeat_seconds=services.settings.websocket.heartbeat_seconds,
            later=_call_later,
        )
        news = PresenceNews(services)
        self._keeper = PresenceKeeper(
            services.presence, on_online=news.tell_online, on_offline=news.tell_offline
        )
        self._revocations = services.rules.one(RevocationList)
        self._is_epoch_in_doubt = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def epoch(self) -> str:
        return self.catchup.epoch

    async def start(self) -> None:
        """Listen to commits, bus and revocations, and begin the background work."""
        bus = self.services.bus
        self.services.db.on_commit = self._fanout.on_commit
        bus.subscribe(TOPIC, self._fanout.on_bus)
        bus.subscribe(SIGNALS, self._on_signal)
        bus.on_reconnect(self._reader.on_bus_reconnect)
        self._revocations.add_listener(self._on_revoked)
        self._tasks = [
            asyncio.create_task(self._reader.fill_forever(), name="gateway-fill"),
            asyncio.create_task(self._reader.check_forever(), name="gateway-check"),
            asyncio.create_task(self._reader.follow_forever(), name="gateway-follow"),
            asyncio.create_task(self._keeper.run(), name="gateway-presence"),
            asyncio.create_task(self._sweep_forever(), name="gateway-sweep"),
            asyncio.create_task(self._watch_epoch(), name="gateway-epoch"),
        ]

    async def stop(self) -> None:
        """Close what is still open with 1012; people are offline in ten seconds unless they come back."""
        self.is_stopping = True
        for connection in self.hub.connections():
            connection.close(CloseCode.SERVICE_RESTART)
        self.leader.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keeper.leave()

    def add(self, connection: Connection) -> None:
        """A socket was admitted."""
        self.hub.add(connection)
        if self._revocations.is_denied(connection.session_id):
            # The session ended between the check of its token and now.
            connection.close(CloseCode.NOT_SIGNED_IN)
        elif self.is_stopping:
            connection.close(CloseCode.SERVICE_RESTART)
        else:
            self._keeper.arrive(connection.user_id, connection.id)

    def remove(self, connection: Connection) -> None:
        """It has closed."""
        self.leader.forget(connection)
        self.catchup.forget(connection)
        self._fanout.forget(connection)
        self._keeper.depart(connection.user_id, connection.id)

    def is_over(self, connection: Connection) -> bool:
        """Its session has ended: it hears why, and nothing that it says counts any more."""
        return self._revocations.is_denied(connection.session_id)

    def _on_revoked(self, session_ids: Sequence[SessionId]) -> None:
        # A moment later, so that the update that says why it ended still goes out.
        loop = asyncio.get_running_loop()
        for session_id in session_ids:
            for connection in list(self.hub.of_session(session_id)):
                self.catchup.release(connection)
                loop.call_later(_FAREWELL_SECONDS, connection.close, CloseCode.NOT_SIGNED_IN)

    def _on_signal(self, payload: bytes) -> None:
        signal = parse_signal(payload)
        frame = OutFrame(signal.frame)
        if signal.users or signal.scope is None:
            receivers = [
                connection
                for user_id in signal.users
                for connection in self.hub.of_user(user_id)
                if connection.chat_id is None
                or (signal.scope is not None and connection.chat_id == signal.scope.id)
            ]
        else:
            followers = self.hub.followers(signal.scope)
            receivers = [it for it, after in followers.items() if after != SILENT]
        for connection in receivers:
            if (
                connection.is_ready
                and connection.session_id != signal.except_session
                and connection.user_id != signal.except_user
            ):
                connection.send_signal(frame)

    async def _sweep_forever(self) -> None:
        """Tokens that ran out, clients that say nothing."""
        loop = asyncio.get_running_loop()
        idle_seconds = self.services.settings.websocket.idle_seconds
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in self.hub.connections():
                if connection.expires_at <= now:
                    connection.close(CloseCode.NOT_SIGNED_IN)
                elif connection.last_frame_at + idle_seconds <= now:
                    connection.close(CloseCode.IDLE)

    def _is_of_epoch(self, epoch: str) -> bool:
        """Whether that is the epoch that this worker knows; if not, it looks at once."""
        if epoch == self.catchup.epoch:
            return True
        self._is_epoch_in_doubt.set()
        return False

    async def _watch_epoch(self) -> None:
        """A new epoch voids what clients hold: they reconnect and read again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EPOCH_SECONDS):
                    await self._is_epoch_in_doubt.wait()
            self._is_epoch_in_doubt.clear()
            try:
                epoch = await self.services.db.read(load_epoch)
            except Problem:
                continue
            if epoch != self.catchup.epoch:
                self.catchup.epoch = epoch
                for connection in self.hub.connections():
                    connection.close(CloseCode.SERVICE_RESTART)
                    # The numbers that it follows from are those of another log.
                    self._fanout.forget(connection)


def _call_later(seconds: float, action: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, action)
