"""The load of a schedule: sends, retries, refusals, edits, deletions, read marks, comings and goings.

Every call is journalled with what came of it. Which calls are made is drawn from the schedule's
seed; what is answered depends on the faults.
"""

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from messenger_client import Change, Problem, SessionEnded, Unreachable, Update

from tests.faults.journal import Call, Journal, Outcome
from tests.faults.world import Chat, ChatKind, Device, World

SENDS_PER_SECOND = 60
_TICK_SECONDS = 0.05
# After a pause of the suite itself the rest of what was due is left out.
_MAX_BURST = 60
_RECENT = 60
_MAX_IN_FLIGHT = 400
# A caller without patience: what it does not hear in time is unknown to it.
_IMPATIENT_SECONDS = 4.0
_TOO_LONG = "x" * 4097
_OVERLOADED = 503
# An earlier try, whose answer was lost, may have got in before the sender was put out.
_UNCERTAIN_AFTER_RETRIES = frozenset({"chat_not_found", "not_allowed", "message_not_found"})
_WEIGHTS = {
    ChatKind.CROWD: 2,
    ChatKind.PRIVATE: 9,
    ChatKind.GROUP: 5,
    ChatKind.CHANNEL: 2,
    ChatKind.DOOR: 3,
}


@dataclass(frozen=True, slots=True)
class Draft:
    """One send; all its tries share the id and the text."""

    device: Device
    chat: Chat
    text: str
    client_message_id: str

    @property
    def body(self) -> dict[str, Any]:
        return {
            "chat_id": self.chat.id,
            "text": self.text,
            "client_message_id": self.client_message_id,
        }


@dataclass(frozen=True, slots=True)
class Said:
    """An acknowledged message."""

    id: int
    draft: Draft


Way = Callable[[Draft], Awaitable[dict[str, Any]]]


class Workload:
    """One schedule's traffic. `run` makes it, `finish` waits until every call has its outcome."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        seed: int,
        *,
        rate: float,
        passes_door: bool = True,
    ) -> None:
        """`rate`: sends a second. `passes_door`: people come and go."""
        self._world = world
        self._journal = journal
        self._random = random.Random(f"traffic {seed}")
        self._rate = rate
        self._passes_door = passes_door
        self._chats = [chat for chat in world.chats if chat.kind is not ChatKind.BLOCKED]
        self._weights = [_WEIGHTS[chat.kind] for chat in self._chats]
        self._said: dict[int, deque[Said]] = {
            chat.id: deque(maxlen=_RECENT) for chat in world.chats
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._away: set[Device] = set()
        self._is_looking = True
        self.faults: list[BaseException] = []
        self.sends = 0

    async def run(self, seconds: float) -> None:
        """Make traffic for so long, at the rate, however slow the answers are."""
        clock = asyncio.get_running_loop().time
        for device in self._world.devices:
            device.record.on_applied = lambda change, it=device: self._maybe_look(it, change)
        started, acted = clock(), 0
        while (elapsed := clock() - started) < seconds:
            due = int(elapsed * self._rate) - acted
            for _ in range(min(due, _MAX_BURST)):
                self._act()
            acted += due
            await asyncio.sleep(_TICK_SECONDS)
        self._is_looking = False

    async def finish(self, timeout_seconds: float) -> bool:
        """Whether every call ended in time; the others are given up and stay unknown."""
        if self._tasks:
            _, waiting = await asyncio.wait(self._tasks, timeout=timeout_seconds)
            for task in waiting:
                task.cancel()
            return not waiting
        return True

    # What happens next.

    def _act(self) -> None:
        if len(self._tasks) >= _MAX_IN_FLIGHT:
            return
        rng = self._random
        self._start(self._send_something())
        if rng.random() < 0.05:
            self._start(self._edit())
        if rng.random() < 0.03:
            self._start(self._delete())
        if rng.random() < 0.12:
            self._start(self._read())
        if rng.random() < 0.02 and self._passes_door:
            self._start(self._pass_the_door())
        if rng.random() < 0.01:
            self._start(self._go_away())

    def _send_something(self) -> Awaitable[None]:
        self.sends += 1
        chance = self._random.random()
        if chance < 0.05:
            return self._be_refused()
        draft = self._draft()
        if chance < 0.10:
            return self._race(draft)
        if chance < 0.20:
            return self._send_twice(draft)
        return self._send_once(draft)

    def _draft(self) -> Draft:
        rng = self._random
        [chat] = rng.choices(self._chats, self._weights)
        person = rng.choice(chat.writers)
        number = f"{rng.getrandbits(40):010x}"
        text = f"text {number} " + "y" * rng.choice((20, 80, 400))
        return Draft(
            rng.choice(person.devices),
            chat,
            text,
            str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        )

    # Sends.

    async def _send_once(self, draft: Draft) -> None:
        await self._try(draft, self._random.choice(self._ways()))

    async def _send_twice(self, draft: Draft) -> None:
        """Once more, whatever came of it, as a client does that forgot the answer."""
        for way in self._random.sample(self._ways(), 2):
            await self._try(draft, way)

    async def _race(self, draft: Draft) -> None:
        """The same send several times at once, from both devices, on whatever workers they are on."""
        count = self._random.choice((2, 3, 8))
        drafts = [replace(draft, device=it) for it in draft.device.person.devices]
        ways = [
            self._by_outbox,
            *self._random.choices([self._by_call, self._by_socket], k=count - 1),
        ]
        tries = (self._try(drafts[place % 2], way) for place, way in enumerate(ways))
        await asyncio.gather(*tries)

    async def _be_refused(self) -> None:
        """By a block, by the length, or because the id stands for something else."""
        rng = self._random
        draft, ways = self._draft(), self._ways()
        kind = rng.choice(("blocked", "too_long", "reused"))
        earlier = [said for said in self._said[draft.chat.id] if said.draft.chat.is_steady]
        if kind == "blocked":
            chat = next(it for it in self._world.chats if it.kind is ChatKind.BLOCKED)
            device = rng.choice(chat.members[0].devices)
            draft = Draft(device, chat, draft.text, draft.client_message_id)
        elif kind == "reused" and earlier:
            first = rng.choice(earlier).draft
            draft = Draft(first.device, first.chat, draft.text, first.client_message_id)
            # The outbox of the client would take it for the send that may still be under way.
            ways = [self._by_call, self._by_socket]
        else:
            draft = Draft(draft.device, draft.chat, draft.text + _TOO_LONG, draft.client_message_id)
        await self._try(draft, rng.choice(ways), forced=True)

    def _ways(self) -> list[Way]:
        return [self._by_outbox, self._by_outbox, self._by_call, self._by_socket]

    async def _by_outbox(self, draft: Draft) -> dict[str, Any]:
        """Stubbornly, until there is a definite answer."""
        return await draft.device.client.send_message(
            draft.chat.id, draft.text, client_message_id=draft.client_message_id
        )

    async def _by_call(self, draft: Draft) -> dict[str, Any]:
        """One try over HTTP."""
        return await draft.device.client.call("POST", "/messages/", draft.body)

    async def _by_socket(self, draft: Draft) -> dict[str, Any]:
        """One try over the WebSocket."""
        answer = await draft.device.client.request("send_message", draft.body)
        return answer["message"]

    async def _try(self, draft: Draft, way: Way, **about: Any) -> None:
        if draft.device in self._away:
            return
        is_stubborn = way == self._by_outbox
        asked = {**draft.body, "text": draft.text[:500], "way": way.__name__, **about}
        if draft.chat.is_steady and not about:
            asked["must_succeed"] = True
        answer = await self._call(
            draft.device,
            "send",
            lambda: way(draft),
            is_uncertain=is_stubborn and not draft.chat.is_steady and not about,
            timeout_seconds=None if is_stubborn else _IMPATIENT_SECONDS,
            **asked,
        )
        if answer is not None and not about:
            self._said[draft.chat.id].append(Said(answer["id"], draft))

    # Everything else.

    async def _edit(self) -> None:
        said = self._pick()
        if said is None:
            return
        device, text = said.draft.device, f"edited {self._random.getrandbits(40):010x}"
        path = f"/messages/{said.id}"
        await self._call(
            device,
            "edit",
            lambda: device.client.call("PUT", path, {"text": text}),
            message_id=said.id,
            text=text,
        )

    async def _delete(self) -> None:
        said = self._pick()
        if said is None:
            return
        device, path = said.draft.device, f"/messages/{said.id}"
        self._said[said.draft.chat.id].remove(said)
        await self._call(
            device,
            "delete",
            lambda: device.client.call("DELETE", path, params={"for_everyone": "true"}),
            message_id=said.id,
        )

    async def _read(self) -> None:
        """Everything so far, or only some of it."""
        said = self._pick()
        if said is None:
            return
        chat = said.draft.chat
        device = self._random.choice(self._random.choice(chat.members).devices)
        message_id = self._random.choice((said.id, self._said[chat.id][-1].id))
        path = f"/chats/{chat.id}/read"
        await self._call(
            device,
            "read",
            lambda: device.client.call("POST", path, {"message_id": message_id}),
            chat_id=chat.id,
            message_id=message_id,
        )

    async def _pass_the_door(self) -> None:
        """Somebody comes in, goes, or is put out by the owner."""
        door = next(chat for chat in self._world.chats if chat.kind is ChatKind.DOOR)
        owner, guest = door.members[0], self._random.choice(door.members[1:])
        action = self._random.choice(("join", "join", "leave", "kick"))
        device = self._random.choice((owner if action == "kick" else guest).devices)
        method, path = "POST", f"/chats/{door.id}/{action}"
        if action == "kick":
            method, path = "DELETE", f"/chats/{door.id}/members/{guest.id}"
        await self._call(
            device,
            action,
            lambda: device.client.call(method, path),
            chat_id=door.id,
            guest=guest.id,
        )

    async def _go_away(self) -> None:
        """The client is killed, and started again later from what its store holds."""
        device = self._random.choice(self._world.devices)
        pause = self._random.choice((0.1, 1.0, 3.0))
        if device in self._away:
            return
        self._away.add(device)
        await device.crash()
        await asyncio.sleep(pause)
        device.come_back()
        self._away.discard(device)

    def _maybe_look(self, device: Device, change: Change) -> None:
        """Now and then: what was pushed must be there for whoever asks for it at once."""
        if not self._is_looking or not isinstance(change, Update):
            return
        if change.type != "new_message":
            return
        chat = next((it for it in self._world.chats if f"chat:{it.id}" == change.scope), None)
        if chat is None or not chat.is_steady or self._random.random() > 0.004:
            return
        message_id = (change.data.get("message") or change.data)["id"]
        self._start(self._look(device, message_id))

    async def _look(self, device: Device, message_id: int) -> None:
        path = f"/messages/{message_id}"
        await self._call(
            device, "look", lambda: device.client.call("GET", path), message_id=message_id
        )

    def _pick(self) -> Said | None:
        """An acknowledged message of this schedule."""
        chats = [chat for chat in self._chats if self._said[chat.id]]
        return self._random.choice(self._said[self._random.choice(chats).id]) if chats else None

    # The journal around every call.

    async def _call(
        self,
        device: Device,
        action: str,
        make: Callable[[], Awaitable[Any]],
        *,
        is_uncertain: bool = False,
        timeout_seconds: float | None = _IMPATIENT_SECONDS,
        **about: Any,
    ) -> Any:
        """The answer of a call that went well, else None.

        `is_uncertain`: it may have been tried several times, and a refusal be that of the last.
        """
        if device in self._away:
            return None
        call = self._journal.begin(device.name, device.person.id, action, **about)
        client = device.client
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await make()
        except Problem as problem:
            await self._end_badly(call, problem, is_uncertain=is_uncertain)
        except (Unreachable, SessionEnded, TimeoutError) as error:
            await self._journal.end(call, Outcome.UNKNOWN, error=repr(error)[:200])
        except (asyncio.CancelledError, RuntimeError) as error:
            if device not in self._away and device.client is client:
                raise
            # Its client was killed in the middle.
            await self._journal.end(call, Outcome.UNKNOWN, error=repr(error)[:200])
        else:
            known = {"id": answer["id"]} if action == "send" else {}
            await self._journal.end(call, Outcome.OK, **known)
            return answer if answer is not None else {}
        return None

    async def _end_badly(self, call: Call, problem: Problem, *, is_uncertain: bool) -> None:
        is_unknown = problem.status >= _OVERLOADED or (
            is_uncertain and problem.code in _UNCERTAIN_AFTER_RETRIES
        )
        outcome = Outcome.UNKNOWN if is_unknown else Outcome.FAIL
        await self._journal.end(
            call, outcome, status=problem.status, code=problem.code, detail=problem.detail
        )

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(error)
