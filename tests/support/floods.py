"""Many messages in little time."""

from typing import Any

from tests.support.people import Person

_AT_ONCE = 100


async def say_many(
    person: Person, chat: Any, count: int, text: str = "again and again"
) -> list[int]:
    """Messages of this person, by forwarding what was said before; answers their ids."""
    ids = [(await person.say(chat, text))["id"]]
    while len(ids) < count:
        origin = {
            "chat_id": chat["id"],
            "message_ids": sorted(ids)[: min(_AT_ONCE, count - len(ids))],
        }
        body = {"chat_id": chat["id"], "forward_from": origin}
        answer = await person.post("/messages/", body, expect=201)
        ids += [it["id"] for it in answer.get("items", [answer])]
    return sorted(ids)
