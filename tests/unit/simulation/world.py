"""The world of one run: people who write, join and leave, devices, workers, and all that may go wrong."""

import itertools

from app.kernel.announcements import Announcement
from app.kernel.ids import ChatId, UserId
from app.kernel.scopes import chat_scope
from tests.unit.simulation.database import Database
from tests.unit.simulation.device import Device, Endpoint, Listener
from tests.unit.simulation.judge import Judge, Wrong
from tests.unit.simulation.log import Chat, Kind, Log
from tests.unit.simulation.schedule import Schedule
from tests.unit.simulation.weather import Weather
from tests.unit.simulation.worker import Worker

_WORKERS = 2
_HEALING_SECONDS = 120.0
_HEALING_STEPS = 20_000


class World:
    """Made by its seed alone; odd seeds heal at their end."""

    def __init__(self, seed: int) -> None:
        self.schedule = Schedule(seed)
        rng = self.rng = self.schedule.rng
        self.weather = Weather.rough(rng)
        self.was_rough = str(self.weather)
        self.log = Log()
        self.judge = Judge(self.log)
        self.database = Database(self.log, self.schedule, self.weather)
        self.is_bus_away = False
        self.people = [UserId(n) for n in range(101, 101 + rng.choice((2, 3, 4)))]
        self._chat_ids = itertools.count(1)
        self.workers: list[Worker] = []
        self.endpoints: list[Endpoint] = []
        self._is_ending = False
        for user_id in self.people:
            self.log.settle(user_id)
        for kind in (Kind.PRIVATE, Kind.GROUP, Kind.CHANNEL):
            self._create(kind)
        self.log.take()
        self._backup = self.log.copy()
        for number in range(_WORKERS):
            self._start_worker(number, 0)
        for number, user_id in enumerate(self.people + rng.sample(self.people, 2)):
            device = Device(self, f"device-{number}", user_id)
            self.endpoints.append(device)
            self.schedule.within(rng.choice((0.01, 5)), device.dial)
        chat = rng.choice(list(self.log.chats.values()))
        listener = Listener(self, "listener", rng.choice(self.people), chat.id)
        self.endpoints.append(listener)
        listener.dial()
        self._acts = rng.randrange(15, 65)
        self._pace = rng.choice((0.02, 0.2, 1.0))
        self.schedule.within(self._pace, self._go_on)

    def run(self, *, heals: bool) -> None:
        """To the end of what people do; a world that heals must then come to rest."""
        while self._acts:
            self.schedule.step()
        if heals:
            self._heal()
            self._come_to_rest()

    def some_worker(self) -> Worker | None:
        alive = [worker for worker in self.workers if worker.is_alive]
        return self.rng.choice(alive) if alive else None

    # What people do.

    def _go_on(self) -> None:
        self._acts -= 1
        rng, weather = self.rng, self.weather
        troubles = {
            self._cut: weather.cuts,
            self._stall: weather.stalls,
            self._crash: weather.crashes,
            self._lose_bus: weather.bus_outages,
            self._lose_database: weather.read_outages,
            self._prune: weather.prunes,
            self._break: weather.breaks,
            self._renew_epoch: weather.epochs,
            self._back_up: weather.restores,
            self._restore: weather.restores,
        }
        acts = {
            self._write: 6.0,
            self._edit: 1.0,
            self._tell: 0.7,
            self._move: 1.5,
            self._open_or_close: 0.5,
            self._create_another: 0.3,
            self._delete: 0.1,
            **troubles,
        }
        rng.choices(list(acts), list(acts.values()))[0]()
        if self._acts:
            self.schedule.within(2 * self._pace, self._go_on)

    def _commit(self) -> None:
        """What was done is committed; a worker tells of it, unless it dies on the way."""
        announced = self.log.take()
        worker = self.some_worker()
        if not announced or worker is None:
            return
        self.schedule.note(
            "commit", worker.name, [(a.scope.wire, a.scope.id, a.seq) for a in announced]
        )
        if self.schedule.chance(self.weather.unannounced):
            self._kill(worker)
            return
        announcements: list[Announcement] = announced
        worker.later(self.rng.random() * 0.002, lambda: worker.fanout.on_commit(announcements))

    def _some_chat(self, *kinds: Kind) -> Chat | None:
        chats = [
            chat
            for chat in self.log.chats.values()
            if not chat.is_deleted and (not kinds or chat.kind in kinds)
        ]
        return self.rng.choice(chats) if chats else None

    def _write(self) -> None:
        chat = self._some_chat()
        if chat is not None:
            for _ in range(self.rng.choice((1, 1, 1, 8))):
                self.log.write(chat, is_filled=not self.schedule.chance(self.weather.unfilled))
                self._commit()

    def _edit(self) -> None:
        chat = self._some_chat()
        if chat is not None and chat.last_message_id:
            rows = self.log.rows[chat_scope(chat.id)]
            ids = [row.subject_id for row in rows if row.type == "new_message"]
            self.log.edit(chat, self.rng.choice(ids) or 0)
            self._commit()

    def _tell(self) -> None:
        self.log.tell(self.rng.choice(self.people))
        self._commit()

    def _move(self) -> None:
        """Somebody joins or leaves a group or channel, perhaps several times in a row."""
        chat = self._some_chat(Kind.GROUP, Kind.CHANNEL)
        if chat is None:
            return
        user_id = self.rng.choice(self.people)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            if self.log.stay(user_id, chat.id) is None:
                self.log.admit(chat, user_id)
            else:
                self.log.dismiss(chat, user_id)
            if self.schedule.chance(0.7):
                self._commit()
        self._commit()

    def _open_or_close(self) -> None:
        chat = self._some_chat(Kind.PRIVATE)
        if chat is not None:
            user_id = self.rng.choice(self.log.members(chat.id))
            if user_id in chat.closed_by:
                self.log.reopen(chat, user_id)
            else:
                self.log.close(chat, user_id)
            self._commit()

    def _create_another(self) -> None:
        self._create(self.rng.choice(list(Kind)))
        self._commit()

    def _create(self, kind: Kind) -> None:
        chat = Chat(ChatId(next(self._chat_ids)), kind)
        chat.is_history_visible = kind is not Kind.GROUP or self.schedule.chance(0.3)
        size = 2 if kind is Kind.PRIVATE else self.rng.randrange(1, len(self.people) + 1)
        self.log.create(chat, self.rng.sample(self.people, size))

    def _delete(self) -> None:
        chat = self._some_chat(Kind.GROUP, Kind.CHANNEL)
        if chat is not None and len(self.log.chats) > 3:
            self.log.delete(chat)
            self._commit()

    # What goes wrong.

    def _cut(self) -> None:
        self.rng.choice(self.endpoints).cut()

    def _stall(self) -> None:
        """A device stops reading for a while."""
        line = self.rng.choice(self.endpoints).line
        if line is not None:
            line.is_stalled = True
            self.schedule.within(self.rng.choice((1, 60)), line.resume_taking)

    def _crash(self) -> None:
        worker = self.some_worker()
        if worker is not None:
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        self.schedule.note("crash", worker.name)
        worker.crash()
        for endpoint in self.endpoints:
            line = endpoint.line
            if line is not None and line.is_cut:
                self.schedule.within(1, lambda e=endpoint, it=line: e.hang_up(it, None))
        number = self.workers.index(worker)
        self.schedule.within(3, lambda: self._start_worker(number, worker.generation + 1))

    def _lose_bus(self) -> None:
        self.is_bus_away = True
        self.schedule.within(3, self._find_bus)

    def _find_bus(self) -> None:
        self.is_bus_away = False
        for worker in self.workers:
            worker.alive(worker.check)

    def _lose_database(self) -> None:
        self.database.is_away = True
        self.schedule.within(3, self._find_database)

    def _find_database(self) -> None:
        self.database.is_away = False

    def _prune(self) -> None:
        scope = self.rng.choice(list(self.log.rows))
        self.log.prune(scope, self.rng.randint(0, self.log.head(scope)))
        self.schedule.note("prune", scope, self.log.pruned[scope])

    def _break(self) -> None:
        """A newest row can be written, but not read. The end of a chat always can: its filler reads nothing."""
        scope = self.rng.choice(list(self.log.rows))
        rows = self.log.rows[scope]
        if rows and rows[-1].type == "chat_deleted":
            return
        self.log.broken.add((scope, self.log.head(scope)))
        self.schedule.note("break", scope, self.log.head(scope))

    def _renew_epoch(self) -> None:
        self.log.renew_epoch()
        self.schedule.note("epoch", self.log.epoch)

    def _back_up(self) -> None:
        self._backup = self.log.copy()

    def _restore(self) -> None:
        """With no worker running."""
        for endpoint in self.endpoints:
            endpoint.cut()
        for worker in self.workers:
            if worker.is_alive:
                self._kill(worker)
        self.log.restore(self._backup)
        self.schedule.note("restore", self.log.epoch)

    # Workers, and the wire between them.

    def _start_worker(self, number: int, generation: int) -> None:
        worker = Worker(
            f"worker-{number}.{generation}",
            self.schedule,
            self.weather,
            self.database,
            self._carry,
        )
        worker.generation = generation
        self.workers[number:] = [worker, *self.workers[number + 1 :]]

    def _carry(self, payload: bytes) -> None:
        """To every worker, the sender too."""
        for worker in self.workers:
            if self.is_bus_away or self.schedule.chance(self.weather.lost):
                continue
            for _ in range(1 + self.schedule.chance(self.weather.doubled)):
                self.schedule.within(self.weather.bus_delay, lambda it=worker: it.hear(payload))

    # The end.

    def _heal(self) -> None:
        """Nothing goes wrong any more. What was lost before stays lost."""
        self.schedule.note("heal")
        for name, value in vars(Weather()).items():
            if name not in {"queue_bytes", "page_rows"}:
                setattr(self.weather, name, value)
        self._find_bus()
        self._find_database()
        for endpoint in self.endpoints:
            if endpoint.line is not None:
                endpoint.line.resume_taking()

    def _come_to_rest(self) -> None:
        until, steps = self.schedule.now + _HEALING_SECONDS, self.schedule.steps + _HEALING_STEPS
        while (left := self._unfinished()) is not None:
            if self.schedule.now > until or self.schedule.steps > steps:
                raise Wrong(f"never whole: {left}")
            due = self.schedule.now + 1
            while self.schedule.now < due:
                self.schedule.step()

    def _unfinished(self) -> str | None:
        """What has not come to rest yet."""
        for endpoint in self.endpoints:
            if isinstance(endpoint, Device):
                scopes = self.log.scopes_of(endpoint.user_id)
                heads = {scope.wire: seq for scope, seq in scopes.items()}
                if endpoint.applied.cursors != heads:
                    return (
                        f"{endpoint.name} stands at {endpoint.applied.cursors}, the log at {heads}"
                    )
        for worker in self.workers:
            left = worker.unfinished()
            if left:
                return f"{worker.name}: {left}"
        return None
