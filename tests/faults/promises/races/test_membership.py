"""Membership changes are atomic: sixteen at once on all workers, judged by the log."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from app.kernel.scopes import ScopeKind
from tests.faults.promises.races.callers import Caller, Callers
from tests.faults.promises.races.lines import Answer
from tests.faults.promises.scale import scaled
from tests.support.people import new_id

pytestmark = pytest.mark.anyio

AT_ONCE = 16
ROUNDS = scaled(quick=1, full=60)
JOINERS = scaled(quick=8, full=50)
INVITES = scaled(quick=1, full=20)
# What a call may be refused with when it loses the race.
_LOST_RACE = {
    "chat_not_found",
    "invite_not_found",
    "member_not_found",
    "not_allowed",
    "owner_must_transfer",
}
_CURRENT = {"owner", "admin", "member", "restricted"}

Job = Callable[[], Awaitable[Answer]]


async def race(jobs: list[Job]) -> list[Answer]:
    """All at the same moment; each is done or refused for a reason, and none fails."""
    answers = list(await asyncio.gather(*(job() for job in jobs)))
    for answer in answers:
        assert answer.is_success or answer.code in _LOST_RACE, answer
    return answers


def saying(person: Caller, chat_id: int) -> Job:
    body = {"chat_id": chat_id, "text": "still here", "client_message_id": new_id()}
    return lambda: person.call("POST", "/messages/", body)


def changing(actor: Caller, chat_id: int, person: Caller, role: str, **more: object) -> Job:
    path = f"/chats/{chat_id}/members/{person.id}"
    return lambda: actor.call("PUT", path, {"role": role, **more})


def going(actor: Caller, chat_id: int, person: Caller) -> Job:
    return lambda: actor.call("DELETE", f"/chats/{chat_id}/members/{person.id}")


def adding(actor: Caller, chat_id: int, person: Caller) -> Job:
    return lambda: actor.call("POST", f"/chats/{chat_id}/members", {"user_ids": [person.id]})


def joining(person: Caller, code: str) -> Job:
    return lambda: person.call("POST", f"/invites/{code}/join")


async def judge_chat(callers: Callers, chat_id: int) -> None:
    """One owner, a count that is right, no hole in the numbers, nothing said from outside."""
    roles = await callers.rows(
        "SELECT user_id, role FROM chat_participants WHERE chat_id = $1", chat_id
    )
    [(owner_id, members_count)] = await callers.rows(
        "SELECT owner_id, members_count FROM chats WHERE id = $1", chat_id
    )
    assert [user_id for user_id, role in roles if role == "owner"] == [owner_id]
    inside = {user_id for user_id, role in roles if role in _CURRENT}
    assert members_count == len(inside)
    spans = await read_spans(callers, chat_id)
    assert {user_id for user_id, marks in spans.items() if is_inside(marks)} == inside
    # "X left" is said by who has just gone.
    said = await callers.rows(
        "SELECT sender_id, seq FROM messages WHERE chat_id = $1 AND type <> 'service'", chat_id
    )
    for sender_id, seq in said:
        before = [mark for mark in spans[sender_id] if abs(mark) < seq]
        assert is_inside(before), f"{sender_id} spoke at {seq}, came and went {spans[sender_id]}"
    seqs = [
        seq
        for [seq] in await callers.rows(
            "SELECT seq FROM updates WHERE kind = $1 AND scope_id = $2 ORDER BY seq",
            int(ScopeKind.CHAT),
            chat_id,
        )
    ]
    assert seqs == list(range(1, len(seqs) + 1))


async def read_spans(callers: Callers, chat_id: int) -> dict[int, list[int]]:
    """User -> the numbers of their comings, and negative those of their goings, in order.

    Read from their own scopes, where the chat's number stands beside each.
    """
    rows = await callers.rows(
        "SELECT scope_id, type, data FROM updates WHERE kind = $1 AND subject_id = $2 "
        "AND type IN ('chat_created', 'chat_removed') ORDER BY scope_id, seq",
        int(ScopeKind.USER),
        chat_id,
    )
    spans: dict[int, list[int]] = {}
    for user_id, kind, data in rows:
        seq = callers.parse(data)["seq"]
        spans.setdefault(user_id, []).append(seq if kind == "chat_created" else -seq)
    return spans


def is_inside(marks: list[int]) -> bool:
    """The last one is a coming; the first number of a chat is 0."""
    return bool(marks) and marks[-1] >= 0


async def test_nobody_speaks_behind_their_removal(either: Callers) -> None:
    owner, *others = await either.sign_up(9)
    chat_id = await owner.group(*others)

    async def run_round() -> None:
        jobs = [saying(person, chat_id) for person in others]
        jobs += [
            going(owner, chat_id, person)
            if number % 2
            else changing(owner, chat_id, person, "left")
            for number, person in enumerate(others)
        ]
        either.random.shuffle(jobs)
        await race(jobs)
        await race([adding(owner, chat_id, person) for person in others])

    for _ in range(ROUNDS):
        await run_round()
    await judge_chat(either, chat_id)


async def test_leaving_and_coming_back_is_one_or_the_other(either: Callers) -> None:
    owner, *others = await either.sign_up(5)
    invited = await owner.group(*others)
    invite = await owner.post(f"/chats/{invited}/invites", {})
    code = invite["code"]

    def jobs_of(person: Caller) -> list[Job]:
        return [
            lambda: person.call("POST", f"/chats/{invited}/leave"),
            joining(person, code),
            joining(person, code),
            saying(person, invited),
        ]

    for _ in range(ROUNDS):
        jobs = [job for person in others for job in jobs_of(person)]
        either.random.shuffle(jobs)
        await race(jobs)
    await judge_chat(either, invited)


async def test_promoted_and_demoted_people_do_only_what_they_may_do(either: Callers) -> None:
    owner, *admins = await either.sign_up(5)
    victims = await either.sign_up(3)
    chat_id = await owner.group(*admins, *victims)
    for _ in range(ROUNDS):
        jobs = [changing(owner, chat_id, person, "admin") for person in admins]
        jobs += [changing(owner, chat_id, person, "member") for person in admins]
        jobs += [
            changing(person, chat_id, victim, "banned")
            for person, victim in zip(admins, victims, strict=False)
        ]
        jobs += [saying(person, chat_id) for person in victims]
        jobs += [
            changing(admins[0], chat_id, admins[1], "banned"),
            going(owner, chat_id, admins[2]),
        ]
        either.random.shuffle(jobs)
        await race(jobs[:AT_ONCE])
        back = [changing(owner, chat_id, person, "left") for person in victims + admins]
        await race(back)
        await race([adding(owner, chat_id, person) for person in victims + admins])
    await judge_chat(either, chat_id)


async def test_a_chat_is_never_without_its_owner(either: Callers) -> None:
    people = await either.sign_up(4)
    chat_id = await people[0].group(*people[1:])

    def jobs_of(person: Caller) -> list[Job]:
        others = [other for other in people if other is not person]
        return [
            lambda: person.call("POST", f"/chats/{chat_id}/leave"),
            going(person, chat_id, person),
            changing(person, chat_id, either.random.choice(others), "owner"),
            changing(person, chat_id, either.random.choice(others), "banned"),
        ]

    for _ in range(ROUNDS):
        jobs = [job for person in people for job in jobs_of(person)]
        either.random.shuffle(jobs)
        await race(jobs)
        await judge_chat(either, chat_id)
        owner = await find_owner(either, chat_id, people)
        outside = [person for person in people if person is not owner]
        await race([changing(owner, chat_id, person, "left") for person in outside])
        await race([adding(owner, chat_id, person) for person in outside])


async def find_owner(callers: Callers, chat_id: int, people: list[Caller]) -> Caller:
    [(owner_id,)] = await callers.rows("SELECT owner_id FROM chats WHERE id = $1", chat_id)
    [owner] = [person for person in people if person.id == owner_id]
    return owner


async def test_an_invite_for_one_lets_in_one(either: Callers) -> None:
    owner, *others = await either.sign_up(JOINERS + 1)
    for _ in range(INVITES):
        chat_id = await owner.group()
        invite = await owner.post(f"/chats/{chat_id}/invites", {"max_uses": 1})
        answers = await race([joining(person, invite["code"]) for person in others])
        assert Counter(answer.is_success for answer in answers)[True] == 1
        [(count,)] = await either.rows(
            "SELECT count(*) FROM chat_participants WHERE chat_id = $1 AND role = 'member'", chat_id
        )
        assert count == 1
        await judge_chat(either, chat_id)
