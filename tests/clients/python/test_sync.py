"""The core of the reference client: whatever order frames come in, a scope's updates come out once and in order."""

import random
from typing import Any

import pytest
from messenger_client import (
    Action,
    Apply,
    Change,
    FetchDifference,
    Forgotten,
    Position,
    Reconnect,
    Reset,
    SendFrame,
    Signal,
    Sync,
    Update,
    Voided,
)

EPOCH = "first"


def update(scope: str, seq: int, type_: str = "new_message", /, **data: Any) -> dict[str, Any]:
    return {"type": type_, "scope": scope, "seq": seq, "data": data}


def hello(epoch: str = EPOCH, *, more: bool = False, **state: int) -> dict[str, Any]:
    named = {name.replace("_", ":"): seq for name, seq in state.items()}
    return {"type": "hello", "data": {"epoch": epoch, "state": named, "more": more}}


def reset(scope: str, seq: int) -> dict[str, Any]:
    return {"type": "scope_reset", "data": {"scope": scope, "seq": seq}}


def resumed(request_id: str = "resume-1") -> dict[str, Any]:
    return {"type": "resumed", "request_id": request_id, "data": {"state": {}}}


def created(seq: int, chat: int, chat_seq: int) -> dict[str, Any]:
    return update("user", seq, "chat_created", chat={"id": chat, "seq": chat_seq})


def removed(seq: int, chat: int, last: int, reason: str = "removed") -> dict[str, Any]:
    return update("user", seq, "chat_removed", chat_id=chat, seq=last, reason=reason)


class Device:
    """A `Sync` and what it has given out."""

    def __init__(self, epoch: str | None = EPOCH, **cursors: int) -> None:
        named = {name.replace("_", ":"): seq for name, seq in cursors.items()}
        self.sync = Sync(Position(epoch, named))
        self.changes: list[Change] = []
        self.actions: list[Action] = []
        self.sync.connected()

    def hear(self, *frames: dict[str, Any]) -> "Device":
        for frame in frames:
            self._take(self.sync.receive(frame))
        return self

    def answer(self, **answer: Any) -> "Device":
        whole = {"epoch": EPOCH, "updates": [], "resets": [], "state": {}, "has_more": False}
        self._take(self.sync.difference(whole | answer))
        return self

    def _take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self.changes += action.changes
            else:
                self.actions.append(action)

    def seqs(self, scope: str = "chat:1") -> list[int]:
        return [c.seq for c in self.changes if isinstance(c, Update) and c.scope == scope]

    @property
    def cursors(self) -> dict[str, int]:
        return self.sync.position.cursors


def test_the_first_connection_ever_reads_everything_over_http() -> None:
    device = Device(epoch=None).hear(hello(user=3, chat_1=7))
    assert device.changes == [Voided(EPOCH), Reset("user", 3), Reset("chat:1", 7)]
    assert device.actions == []
    assert device.sync.is_whole


def test_a_device_that_is_behind_resumes_only_where_it_is_behind() -> None:
    device = Device(user=3, chat_1=4, chat_2=9).hear(hello(user=3, chat_1=7, chat_2=9))
    [action] = device.actions
    assert isinstance(action, SendFrame)
    assert action.frame["data"] == {"epoch": EPOCH, "state": {"chat:1": 4}}
    assert not device.sync.is_whole
    device.hear(update("chat:1", 5), update("chat:1", 6), update("chat:1", 7), resumed())
    assert device.seqs() == [5, 6, 7]
    assert device.sync.is_whole


def test_a_hello_in_parts_is_one_hello() -> None:
    device = Device(user=1, chat_1=1, chat_2=1)
    device.hear(hello(user=1, chat_1=2, more=True))
    assert device.actions == []
    device.hear(hello(chat_2=2))
    [action] = device.actions
    assert isinstance(action, SendFrame)
    assert action.frame["data"]["state"] == {"chat:1": 1, "chat:2": 1}


def test_more_than_a_thousand_scopes_are_resumed_in_several_frames() -> None:
    cursors = {f"chat_{n}": 1 for n in range(1, 2502)}
    device = Device(user=1, **cursors).hear(hello(user=1, **dict.fromkeys(cursors, 2)))
    sizes = [len(it.frame["data"]["state"]) for it in device.actions if isinstance(it, SendFrame)]
    assert sizes == [1000, 1000, 501]


def test_what_is_live_waits_behind_a_replay() -> None:
    device = Device(user=1, chat_1=1).hear(hello(user=1, chat_1=3), update("chat:1", 4))
    assert device.seqs() == []
    device.hear(update("chat:1", 2), update("chat:1", 3))
    assert device.seqs() == [2, 3, 4]
    device.hear(resumed())
    assert device.sync.is_whole
    assert len(device.actions) == 1


def test_a_repeat_is_dropped() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5))
    device.hear(update("chat:1", 5), update("chat:1", 6), update("chat:1", 6), update("chat:1", 2))
    assert device.seqs() == [6]
    assert device.actions == []


def test_what_comes_amid_a_hello_waits_for_its_end() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, more=True), update("chat:1", 6))
    assert device.changes == []
    assert device.hear(hello(chat_1=5)).seqs() == [6]
    assert device.actions == []


def test_a_gap_is_closed_by_the_difference_and_loses_nothing_that_came_meanwhile() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    assert device.actions == [FetchDifference(EPOCH, {"chat:1": 5})]
    device.hear(update("chat:1", 9))
    assert len(device.actions) == 1, "one difference at a time"
    device.answer(updates=[update("chat:1", n) for n in (6, 7, 8)], state={"chat:1": 8})
    assert device.seqs() == [6, 7, 8, 9]
    assert device.sync.is_whole


def test_a_long_difference_is_asked_for_in_pages() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    device.answer(updates=[update("chat:1", 6)], state={"chat:1": 6}, has_more=True)
    assert device.actions[-1] == FetchDifference(EPOCH, {"chat:1": 6})
    device.answer(updates=[update("chat:1", 7)], state={"chat:1": 7})
    assert device.seqs() == [6, 7, 8]


def test_the_difference_resets_only_what_it_was_asked_about() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    resets = [{"scope": "chat:1", "seq": 7}, {"scope": "user", "seq": 40}]
    device.answer(resets=resets, state={"chat:1": 7, "user": 40})
    assert device.changes == [Reset("chat:1", 7), Update("new_message", "chat:1", 8, {})]
    assert device.cursors["user"] == 1


def test_gaps_that_open_meanwhile_are_asked_for_next() -> None:
    device = Device(user=1, chat_1=5, chat_2=5).hear(hello(user=1, chat_1=5, chat_2=5))
    device.hear(update("chat:1", 7), update("chat:2", 7))
    assert device.actions == [FetchDifference(EPOCH, {"chat:1": 5})]
    device.answer(updates=[update("chat:1", 6), update("chat:1", 7)])
    assert device.actions[1:] == [FetchDifference(EPOCH, {"chat:2": 5})]


def test_a_replay_with_a_hole_is_followed_by_a_difference() -> None:
    device = Device(user=1, chat_1=1).hear(hello(user=1, chat_1=3))
    device.hear(update("chat:1", 3), resumed())
    assert device.actions[1:] == [FetchDifference(EPOCH, {"chat:1": 1})]


def test_a_late_difference_does_not_end_a_chat_that_was_joined_again() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    device.hear(removed(2, 1, 8), created(3, 1, 9))
    device.answer(resets=[{"scope": "chat:1", "seq": 0}])
    assert device.hear(update("chat:1", 10)).seqs() == [10]
    assert device.cursors["chat:1"] == 10


def test_a_difference_that_does_not_help_ends_the_connection() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    device.answer()
    assert isinstance(device.actions[-1], Reconnect)
    fresh = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), update("chat:1", 8))
    [*_, last] = fresh.sync.difference_failed()
    assert isinstance(last, Reconnect)
    assert fresh.cursors["chat:1"] == 5


def test_a_new_chat_is_followed_from_its_number_whatever_came_first() -> None:
    device = Device(user=1).hear(hello(user=1))
    device.hear(update("chat:7", 4), update("chat:7", 3), created(2, 7, 2), update("chat:7", 5))
    assert device.seqs("chat:7") == [3, 4, 5]
    assert device.actions == []


def test_what_a_new_chat_already_contains_is_not_applied_again() -> None:
    device = Device(user=1).hear(hello(user=1))
    device.hear(update("chat:7", 1), update("chat:7", 2), created(2, 7, 2), update("chat:7", 3))
    assert device.seqs("chat:7") == [3]


def test_an_empty_chat_begins_at_zero() -> None:
    device = Device(user=1).hear(hello(user=1, chat_7=0))
    assert device.changes == [Reset("chat:7", 0)]
    device.hear(update("chat:7", 1))
    assert device.seqs("chat:7") == [1]


def test_a_chat_that_was_joined_meanwhile_is_followed_from_hello() -> None:
    device = Device(user=1).hear(hello(user=2, chat_7=5))
    assert device.changes == [Reset("chat:7", 5)]
    device.hear(update("chat:7", 6), created(2, 7, 6), resumed())
    assert device.seqs("chat:7") == [6]
    assert device.cursors == {"user": 2, "chat:7": 6}


def test_a_removal_ends_a_scope_and_what_comes_late_is_dropped() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5), removed(2, 1, 6))
    assert device.changes[-1] == Forgotten("chat:1")
    device.hear(update("chat:1", 6))
    assert device.seqs() == []
    device.hear(created(3, 1, 9), update("chat:1", 10))
    assert device.seqs() == [10]


def test_a_removal_ends_a_scope_also_where_more_was_sent_than_should_have_been() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5))
    device.hear(update("chat:1", 6), update("chat:1", 7), removed(2, 1, 6))
    assert device.changes[-1] == Forgotten("chat:1")


def test_a_removal_of_an_earlier_membership_ends_nothing() -> None:
    device = Device(user=1, chat_1=2).hear(hello(user=4, chat_1=12), reset("chat:1", 12))
    device.hear(removed(2, 1, 6), created(3, 1, 11), update("user", 4), resumed())
    assert Forgotten("chat:1") not in device.changes
    device.hear(update("chat:1", 13))
    assert device.seqs() == [13]


def test_a_private_chat_off_the_list_is_followed_on() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5))
    device.hear(removed(2, 1, 5, reason="deleted"), update("chat:1", 6))
    assert device.seqs() == [6]


def test_a_deleted_chat_is_forgotten_with_its_last_update() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=5))
    device.hear(update("chat:1", 6, "chat_deleted", chat_id=1))
    assert device.changes[-1] == Forgotten("chat:1")


def test_a_chat_that_hello_does_not_name_is_no_longer_ours() -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1))
    assert device.changes == [Forgotten("chat:1")]


@pytest.mark.parametrize("seq", [0, 30])
def test_the_server_resets_what_cannot_be_replayed(seq: int) -> None:
    device = Device(user=1, chat_1=5).hear(hello(user=1, chat_1=30), reset("chat:1", seq))
    assert device.changes == [Reset("chat:1", 30) if seq else Forgotten("chat:1")]


def test_another_epoch_voids_everything() -> None:
    device = Device(user=9, chat_1=5).hear(hello("second", user=2, chat_1=3))
    assert device.changes == [Voided("second"), Reset("user", 2), Reset("chat:1", 3)]
    assert device.actions == []
    assert device.sync.position.epoch == "second"


def test_signals_and_answers_pass_through() -> None:
    frame = {"type": "typing", "data": {"chat_id": 1}}
    assert Device(user=1).sync.receive(frame) == [Signal(frame)]


def test_too_much_that_waits_ends_the_connection() -> None:
    device = Device(user=1).hear(hello(user=1))
    device.hear(*(update("chat:9", seq) for seq in range(2, 10_004)))
    assert isinstance(device.actions[-1], Reconnect)


def test_after_a_break_the_device_goes_on_from_what_it_has_applied() -> None:
    device = Device(user=1, chat_1=1).hear(hello(user=1, chat_1=4), update("chat:1", 2))
    device.hear(update("chat:1", 5))
    device.sync.disconnected()
    device.sync.connected()
    device.hear(hello(user=1, chat_1=6))
    last = device.actions[-1]
    assert isinstance(last, SendFrame)
    assert last.frame["data"]["state"] == {"chat:1": 2}
    assert not device.sync.is_whole


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_frames_of_one_scope_comes_out_in_order(seed: int) -> None:
    """A replay in order, what is live in any order and repeated, differences answered late."""
    rng = random.Random(seed)
    start, greeted, end = 5, rng.randrange(5, 12), rng.randrange(12, 25)
    replay = [update("chat:1", seq) for seq in range(start + 1, greeted + 1)]
    live = [update("chat:1", seq) for seq in range(greeted + 1, end + 1)]
    live += rng.sample(live, rng.randrange(len(live)))
    rng.shuffle(live)
    device = Device(user=1, chat_1=start).hear(hello(user=1, chat_1=greeted))
    while replay or live:
        source = replay if replay and (not live or rng.random() < 0.5) else live
        device.hear(source.pop(0))
    device.hear(resumed())
    while not device.sync.is_whole:
        asked = [it for it in device.actions if isinstance(it, FetchDifference)][-1]
        after = asked.state["chat:1"]
        device.answer(
            updates=[update("chat:1", seq) for seq in range(after + 1, min(after + 4, end + 1))],
            has_more=after + 4 < end,
        )
    assert device.seqs() == list(range(start + 1, end + 1))
