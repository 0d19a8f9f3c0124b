"""How each row of the table is put to the server. What a row expects is not known here."""

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

from tests.security.matrix.cast import NEVER, Cast, Ids
from tests.security.matrix.table import Row
from tests.support.people import API, Json, Person, new_id
from tests.support.shown_files import make_text, show, upload
from tests.support.sockets import FrameRefused
from tests.support.tus import BODY_TYPE, TUS, begin, try_to_begin
from tests.support.tus import PATH as TUS_PATH

FILE = "/api/v1/files/{file_type}/{filename}"
UPLOAD = "/api/v1/files/tus/{token}"
# Headers that may differ between two answers that must tell the same; the length is that of the
# body, which is compared itself.
_VARIABLE_HEADERS = {"x-request-id", "date", "content-length", "ratelimit", "ratelimit-policy"}


class Outcome(NamedTuple):
    """What came back: as a cell says it, and all that the caller can see of it."""

    said: str
    evidence: object


@dataclass(frozen=True, kw_only=True)
class Question:
    """One role asks one row in one scene."""

    cast: Cast
    row: Row
    role: str
    who: Person
    ids: Ids


@dataclass(frozen=True, kw_only=True)
class Call:
    """An HTTP request; the path is the operation's, its parameters filled from the ids or by `path`."""

    body: object = None
    query: dict[str, object] | None = None
    path: dict[str, object] = field(default_factory=dict)
    # Whether the answer shows what the case names; None: the case names nothing.
    shows: Callable[[Json], bool] | None = None
    # What the answer adds where `shows` is false and where it is true.
    words: tuple[str, str] = (" no", " yes")


async def ask(question: Question) -> Outcome:
    """Put the row to the server as this role."""
    operation, _, case, _ = question.row
    probe = PROBES.get((operation, case))
    if probe is not None:
        return await probe(question)
    if operation.startswith("FRAME "):
        return await _send_frame(question)
    make = CALLS.get((operation, case), lambda _: Call())
    return await _call(question, make(question))


async def prepare(question: Question) -> None:
    """What has to be so before this case is asked."""
    preparation = PREPARATIONS.get((question.row.operation, question.row.case))
    if preparation is not None:
        await preparation(question)


async def _call(question: Question, call: Call, who: Person | None = None) -> Outcome:
    method, _, template = question.row.operation.partition(" ")
    path = template.removeprefix(API)
    known = ("chat_id", "message_id", "user_id", "session_id", "code")
    values = {name: getattr(question.ids, name) for name in known} | call.path
    for name, value in values.items():
        path = path.replace("{" + name + "}", str(value))
    if template.startswith(API):
        asker = who or question.who
        response = await asker.call(method, path, call.body, query=call.query)
    else:
        response = await question.who.client.request(method, path)
    return _outcome(response, call)


def _outcome(response: httpx.Response, call: Call) -> Outcome:
    status = str(response.status_code)
    headers = {k: v for k, v in response.headers.items() if k not in _VARIABLE_HEADERS}
    evidence = (status, headers, response.content)
    if response.is_error and response.request.method == "HEAD":
        return Outcome(status, evidence)
    if response.is_error:
        body = response.json() if response.headers["content-type"].endswith("json") else {}
        return Outcome(_problem(status, body.get("code", "")), evidence)
    if call.shows is not None:
        return Outcome(status + call.words[call.shows(response.json())], evidence)
    return Outcome(status, evidence)


def _problem(status: str, code: str) -> str:
    usual = status in {"401", "404"} or (status, code) == ("403", "not_allowed")
    return status if usual else f"{status} {code}"


# Frames and sockets


async def _send_frame(question: Question) -> Outcome:
    kind = question.row.operation.removeprefix("FRAME ")
    if question.role == "nobody":
        return await _open_socket(question)
    data = FRAMES[kind, question.row.case](question)
    socket = await question.cast.socket(question.role)
    try:
        await socket.request(kind, data)
    except FrameRefused as refusal:
        problem = refusal.problem
        return Outcome(_problem(str(problem["status"]), problem["code"]), problem)
    return Outcome("ack", None)


async def _open_socket(question: Question) -> Outcome:
    """By an access token: a ticket for the chat is refused to strangers already."""
    of_chat = "{chat_id}" in question.row.operation
    token = "nobody" if question.role == "nobody" else question.who.access_token
    socket = await question.who.connect(
        token=token, chat_id=question.ids.chat_id if of_chat else None, hello=False
    )
    try:
        await socket.expect("hello")
    except AssertionError:
        assert socket.close_code is not None
        return Outcome(str(socket.close_code), (socket.close_code, socket.frames))
    await socket.close()
    return Outcome("open", None)


async def _resume(question: Question) -> Outcome:
    if question.role == "nobody":
        return await _open_socket(question)
    scope = f"chat:{question.ids.chat_id}"
    socket = await question.who.connect()
    state = {scope: max(0, socket.state.get(scope, 1) - 1)}
    await socket.send_frame("resume", {"epoch": question.cast.epoch, "state": state})
    await socket.expect("resumed")
    resets = [frame for frame in socket.seen("scope_reset") if frame["data"]["scope"] == scope]
    told = [frame for frame in socket.frames if _concerns(frame, scope)]
    await socket.close()
    is_disowned = any(frame["data"]["seq"] == 0 for frame in resets)
    evidence = json.dumps(told).replace(scope, "chat:*")
    return Outcome("reset" if is_disowned else "resumed", evidence)


def _concerns(frame: Json, scope: str) -> bool:
    return scope in {frame.get("scope"), (frame.get("data") or {}).get("scope")}


# Requests that need a device of their own


async def _refresh(question: Question, token: str | None = None) -> Outcome:
    spare = await _spare_device(question)
    token = token or (spare.tokens["refresh_token"] if spare.tokens else "nobody's")
    return await _call(question, Call(body={"refresh_token": token}), spare)


async def _refresh_by_access(question: Question) -> Outcome:
    return await _refresh(question, question.who.tokens.get("access_token", "nobody's"))


async def _log_out(question: Question) -> Outcome:
    return await _call(question, Call(), await _spare_device(question))


async def _set_password(question: Question) -> Outcome:
    """Of an account of its own: it would ask for the password at every further sign-in."""
    someone = question.who
    if question.role != "nobody":
        someone = await question.cast.backend.sign_up()
    return await _call(question, Call(body={"password": "correct horse battery"}), someone)


async def _delete_account(question: Question) -> Outcome:
    someone = question.who
    if question.role != "nobody":
        someone = await question.cast.backend.sign_up()
    return await _call(question, Call(), someone)


async def _end_owners_session(question: Question) -> Outcome:
    if question.role != "owner":
        return await _call(question, Call())
    spare = await _spare_device(question)
    mine = (await spare.get("/auth/sessions"))["items"]
    current = next(item["id"] for item in mine if item["is_current"])
    return await _call(question, Call(path={"session_id": current}))


async def _spare_device(question: Question) -> Person:
    if question.role == "nobody":
        return question.who
    return await question.cast.backend.sign_in(question.who.phone)


async def _write_to_whom_i_block(question: Question) -> Outcome:
    if question.role == "nobody":
        return await _call(question, Call(body={"chat_id": NEVER, "text": "Hello"}))
    chat = await question.cast.pest.private_chat(question.who)
    await question.who.put(f"/users/blocked/{question.cast.pest.id}", expect=200)
    return await _call(question, Call(body={"chat_id": chat["id"], "text": "Hello"}))


async def _ask_shown(question: Question, **query: object) -> Outcome:
    """A photo that the owner shows in this chat; none where there is no such chat."""
    file = await _shown_in(question)
    path = {"file_type": "photo", "filename": file["filename"]}
    return await _call(question, Call(path=path, query=query or None))


async def _ask_thumbnail(question: Question) -> Outcome:
    return await _ask_shown(question, thumbnail="small")


async def _shown_in(question: Question) -> Json:
    cast, chat_id = question.cast, question.ids.chat_id
    if chat_id == NEVER:
        return {"filename": "A" * 32 + ".png"}
    if chat_id not in cast.shown:
        blocked = f"/users/blocked/{cast.people['blocked'].id}"
        # The owner writes nothing to whom he blocks.
        await cast.owner.call("DELETE", blocked)
        message = await show(cast.owner, {"id": chat_id}, "photo")
        await cast.owner.put(blocked, expect=200)
        cast.shown[chat_id] = message["attachments"][0]
    return cast.shown[chat_id]


async def _ask_file(question: Question, *, whose: Person) -> Outcome:
    """Of that person; one that never was where the ids are such, or there is nobody."""
    filename = "A" * 32
    if whose.tokens and question.ids.user_id != NEVER:
        filename = (await upload(whose, "document"))["filename"]
    path = {"file_type": "document", "filename": filename}
    return await _call(question, Call(path=path))


async def _ask_own_file(question: Question) -> Outcome:
    return await _ask_file(question, whose=question.who)


async def _ask_foreign_file(question: Question) -> Outcome:
    return await _ask_file(question, whose=question.cast.guest)


async def _begin_upload(question: Question) -> Outcome:
    response = await try_to_begin(question.who, 5)
    return _outcome(response, Call())


async def _ask_upload(question: Question, *, whose: Person) -> Outcome:
    """As `_ask_file`, of an upload that waits for its bytes."""
    method = question.row.operation.partition(" ")[0]
    path = f"{TUS_PATH}/{'A' * 32}"
    if whose.tokens and question.ids.user_id != NEVER:
        path = (await begin(whose, 5)).path
    headers, content = dict(TUS), None
    if method in {"PATCH", "POST"}:
        headers |= {"Content-Type": BODY_TYPE, "Upload-Offset": "0"}
        headers |= {"X-HTTP-Method-Override": "PATCH"} if method == "POST" else {}
        content = b"bytes"
    response = await question.who.call(method, path, content=content, headers=headers)
    if whose.tokens:
        # Nobody has places for as many as there are questions.
        await whose.call("DELETE", path, headers=TUS)
    return _outcome(response, Call())


async def _ask_own_upload(question: Question) -> Outcome:
    return await _ask_upload(question, whose=question.who)


async def _ask_foreign_upload(question: Question) -> Outcome:
    return await _ask_upload(question, whose=question.cast.guest)


async def _upload(question: Question) -> Outcome:
    response = await question.who.post_form(make_text())
    return _outcome(response, Call())


PROBES: dict[tuple[str, str], Callable[[Question], Awaitable[Outcome]]] = {
    ("POST /api/v1/files/upload", ""): _upload,
    ("POST /api/v1/files/tus", ""): _begin_upload,
    **{
        (f"{method} {UPLOAD}", case): probe
        for method in ("HEAD", "GET", "PATCH", "POST", "DELETE")
        for case, probe in (
            ("my own", _ask_own_upload),
            ("of somebody else", _ask_foreign_upload),
        )
    },
    **{
        (f"{method} {FILE}", case): probe
        for method in ("HEAD", "GET")
        for case, probe in (
            ("shown in it", _ask_shown),
            ("the thumbnail of one shown in it", _ask_thumbnail),
            ("my own", _ask_own_file),
            ("of somebody else", _ask_foreign_file),
        )
    },
    ("DELETE " + FILE, "shown in it"): _ask_shown,
    ("DELETE " + FILE, "my own"): _ask_own_file,
    ("DELETE " + FILE, "of somebody else"): _ask_foreign_file,
    ("POST /api/v1/auth/refresh-token", "my own"): _refresh,
    ("POST /api/v1/auth/refresh-token", "my access token"): _refresh_by_access,
    ("POST /api/v1/auth/logout", ""): _log_out,
    ("PUT /api/v1/auth/two-step", "of a new account"): _set_password,
    ("DELETE /api/v1/users/me", "of a new account"): _delete_account,
    ("DELETE /api/v1/auth/sessions/{session_id}", "the owner's"): _end_owners_session,
    ("POST /api/v1/messages/", "to whom I block"): _write_to_whom_i_block,
    ("WS /api/v1/ws/{token}", ""): _open_socket,
    ("WS /api/v1/ws/chat/{chat_id}/{token}", ""): _open_socket,
    ("FRAME resume", ""): _resume,
}


def _call_frame(question: Question) -> Json:
    call = {"call_id": new_id(), "kind": "audio", "action": "offer", "sdp": "v=0"}
    return {**call, "chat_id": question.ids.chat_id}


def _foreign_token(question: Question) -> Json:
    return {"token": question.cast.guest.access_token}


FRAMES: dict[tuple[str, str], Callable[[Question], Json]] = {
    ("ping", ""): lambda _: {},
    ("auth", "my own"): lambda q: {"token": q.who.access_token},
    ("auth", "of somebody else"): _foreign_token,
    ("send_message", ""): lambda q: {"chat_id": q.ids.chat_id, "text": "Hello"},
    ("send_message", "a file of mine"): lambda q: _show_mine(q).body,
    ("send_message", "a file of elsewhere"): lambda q: _show_foreign(q).body,
    ("read", ""): lambda q: {"chat_id": q.ids.chat_id, "message_id": q.ids.message_id},
    ("read", "a message of elsewhere"): lambda q: {
        "chat_id": q.ids.chat_id,
        "message_id": q.ids.foreign_message_id,
    },
    ("typing", ""): lambda q: {"chat_id": q.ids.chat_id, "action": "typing"},
    ("call", ""): _call_frame,
}


# Requests


def _is_listed(question: Question) -> Call:
    chat_id = question.ids.chat_id
    return Call(
        query={"limit": 100}, shows=lambda page: chat_id in {item["id"] for item in page["items"]}
    )


def _search(query: str, wanted: Person) -> Call:
    return Call(
        query={"q": query}, shows=lambda page: wanted.id in {item["id"] for item in page["items"]}
    )


def _has_user(person: Person) -> Call:
    return Call(shows=lambda page: person.id in {item["id"] for item in page["items"]})


def _import_hermit(question: Question) -> Call:
    contacts = [{"phone": question.cast.hermit.phone, "first_name": "Hermit"}]
    return Call(body={"contacts": contacts}, shows=lambda answer: bool(answer["items"]))


def _difference(question: Question) -> Call:
    scope = f"chat:{question.ids.chat_id}"
    return Call(
        body={"epoch": question.cast.epoch, "state": {scope: 0}},
        shows=lambda answer: {"scope": scope, "seq": 0} in answer["resets"],
        words=("", " reset"),
    )


def _message(question: Question, **more: object) -> Call:
    return Call(body={"chat_id": question.ids.chat_id, "text": "Hello", **more})


def _forward(target_id: int, source_id: int, message_id: int) -> Call:
    source = {"chat_id": source_id, "message_ids": [message_id]}
    return Call(body={"chat_id": target_id, "forward_from": source})


def _forward_out(question: Question) -> Call:
    saved = question.cast.saved.get(question.role, NEVER)
    return _forward(saved, question.ids.chat_id, question.ids.message_id)


def _forward_in(question: Question) -> Call:
    saved = question.cast.saved.get(question.role, NEVER)
    noted = question.cast.notes.get(question.role, NEVER)
    return _forward(question.ids.chat_id, saved, noted)


def _show_mine(question: Question) -> Call:
    file_id = question.cast.files.get(question.role, NEVER)
    return Call(body={"chat_id": question.ids.chat_id, "attachments": [file_id]})


def _show_foreign(question: Question) -> Call:
    ids = question.ids
    return Call(body={"chat_id": ids.chat_id, "attachments": [ids.foreign_file_id]})


def _put_mine(question: Question) -> Call:
    return Call(body={"photo": question.cast.photos.get(question.role, NEVER)})


def _put_foreign(question: Question) -> Call:
    return Call(body={"photo": question.ids.foreign_photo_id})


def _role(role: str, **more: object) -> Callable[[Question], Call]:
    return lambda _: Call(body={"role": role, **more})


def _my_role(role: str) -> Callable[[Question], Call]:
    """Of the caller; nobody has no id."""
    return lambda q: Call(body={"role": role}, path={"user_id": q.who.user.get("id", NEVER)})


def _owners_role(role: str) -> Callable[[Question], Call]:
    return lambda q: Call(body={"role": role}, path={"user_id": q.cast.owner.id})


def _change(**changes: object) -> Callable[[Question], Call]:
    return lambda _: Call(body=changes)


def _own(**call: object) -> Callable[[Question], Call]:
    return lambda q: Call(path={"message_id": q.ids.own_message_id}, **call)  # type: ignore[arg-type]


CHAT = "/api/v1/chats/{chat_id}"
MEMBER = CHAT + "/members/{user_id}"
MESSAGE = "/api/v1/messages/{message_id}"
FOR_ALL: dict[str, object] = {"for_everyone": True}

CALLS: dict[tuple[str, str], Callable[[Question], Call]] = {
    ("POST /api/v1/auth/send-verification", ""): lambda q: Call(
        body={"phone": q.cast.backend.deployment.next_phone()}
    ),
    ("POST /api/v1/auth/verify-code", "of a request that never was"): lambda _: Call(
        body={"verification_id": secrets.token_urlsafe(24), "code": "123456"}
    ),
    ("POST /api/v1/auth/verify-password", "a token that never was"): lambda _: Call(
        body={"password_token": "pt_" + secrets.token_urlsafe(32), "password": "a fine horse"}
    ),
    ("POST /api/v1/auth/two-step/reset", "a token that never was"): lambda _: Call(
        body={"password_token": "pt_" + secrets.token_urlsafe(32)}
    ),
    ("POST /api/v1/auth/confirm", "a code that never was"): lambda _: Call(
        body={"verification_id": secrets.token_urlsafe(24), "code": "123456"}
    ),
    ("PUT /api/v1/auth/two-step", "a code without a secret"): _change(totp="123456"),
    ("GET /api/v1/auth/sessions", "the owner's device is in it"): lambda q: Call(
        shows=lambda page: q.cast.owners_session in {item["id"] for item in page["items"]}
    ),
    ("POST /api/v1/auth/ws-ticket", "for everything"): lambda _: Call(body={}),
    ("POST /api/v1/auth/ws-ticket", ""): lambda q: Call(body={"chat_id": q.ids.chat_id}),
    ("PUT /api/v1/users/me", ""): _change(bio="Hello"),
    ("PUT /api/v1/users/me", "a photo of mine"): _put_mine,
    ("PUT /api/v1/users/me", "a photo of elsewhere"): _put_foreign,
    ("PUT /api/v1/users/me/privacy", ""): _change(call="everyone"),
    ("GET /api/v1/users/search", "a username"): lambda q: _search(q.cast.username, q.cast.owner),
    ("GET /api/v1/users/search", "a name of a member"): lambda q: _search(
        q.cast.last_name, q.cast.target
    ),
    ("GET /api/v1/users/search", "the phone of one who hides"): lambda q: _search(
        q.cast.hermit.phone, q.cast.hermit
    ),
    ("GET /api/v1/users/contacts", "the owner's contact is in it"): lambda q: _has_user(
        q.cast.target
    ),
    ("POST /api/v1/users/contacts", "the phone of one who hides"): _import_hermit,
    ("GET /api/v1/users/blocked", "whom the owner blocks is in it"): lambda q: _has_user(
        q.cast.people["blocked"]
    ),
    ("PUT /api/v1/users/blocked/{user_id}", ""): lambda q: Call(path={"user_id": q.cast.pest.id}),
    ("DELETE /api/v1/users/blocked/{user_id}", "whom the owner blocks"): lambda q: Call(
        path={"user_id": q.ids.user_id if q.ids.user_id == NEVER else q.cast.people["blocked"].id}
    ),
    ("GET /api/v1/chats/", "it is in my list"): _is_listed,
    ("POST /api/v1/chats/", "with the owner"): lambda q: Call(
        body={"type": "private", "user_id": q.cast.owner.id}
    ),
    ("POST /api/v1/chats/", "a new one with who blocks all"): lambda q: Call(
        body={"type": "private", "user_id": q.ids.hermit_id}
    ),
    ("POST /api/v1/chats/", "a group"): _change(type="group", title="Mine"),
    ("POST /api/v1/chats/", "a group with who blocks all"): lambda q: Call(
        body={"type": "group", "title": "Mine", "member_ids": [q.ids.hermit_id]},
        shows=lambda chat: chat["members_count"] > 1,
    ),
    ("POST /api/v1/chats/", "a channel"): _change(type="channel", title="Mine"),
    ("GET /api/v1/chats/resolve", ""): lambda q: Call(query={"username": q.ids.username}),
    ("PUT " + CHAT, "title"): _change(title="New title"),
    ("PUT " + CHAT, "what members may do"): _change(permissions=["send_messages"]),
    ("PUT " + CHAT, "more than the admin may"): _change(permissions=["pin_messages"]),
    ("PUT " + CHAT, "username"): lambda _: Call(body={"username": "was_" + secrets.token_hex(6)}),
    ("PUT " + CHAT, "history"): _change(history_visible=True),
    ("PUT " + CHAT, "a photo of mine"): _put_mine,
    ("PUT " + CHAT, "a photo of elsewhere"): _put_foreign,
    ("DELETE " + CHAT, "for both"): lambda _: Call(query=FOR_ALL),
    ("PUT " + CHAT + "/settings", ""): _change(is_archived=True),
    ("GET " + CHAT + "/members", "who is banned"): lambda _: Call(query={"filter": "banned"}),
    ("POST " + CHAT + "/members", ""): lambda q: Call(body={"user_ids": [q.cast.guest.id]}),
    ("POST " + CHAT + "/members", "myself"): lambda q: Call(
        body={"user_ids": [q.who.user.get("id", NEVER)]}
    ),
    ("PUT " + MEMBER, "make admin"): _role("admin"),
    ("PUT " + MEMBER, "make owner"): _role("owner"),
    ("PUT " + MEMBER, "restrict"): _role("restricted", permissions=[]),
    ("PUT " + MEMBER, "ban"): _role("banned"),
    ("PUT " + MEMBER, "put out"): _role("left"),
    ("PUT " + MEMBER, "restrict an admin"): _role("restricted", permissions=[]),
    ("PUT " + MEMBER, "ban an admin"): _role("banned"),
    ("PUT " + MEMBER, "ban the owner"): _owners_role("banned"),
    ("PUT " + MEMBER, "make the owner a member"): _owners_role("member"),
    ("PUT " + MEMBER, "make myself admin"): _my_role("admin"),
    ("PUT " + MEMBER, "make myself owner"): _my_role("owner"),
    ("PUT " + MEMBER, "make myself a member"): _my_role("member"),
    ("PUT " + MEMBER, "ban who never was in"): lambda q: Call(
        body={"role": "banned"}, path={"user_id": q.cast.guest.id}
    ),
    ("DELETE " + MEMBER, "the owner"): lambda q: Call(path={"user_id": q.cast.owner.id}),
    ("POST " + CHAT + "/invites", ""): _change(max_uses=5),
    ("DELETE " + CHAT + "/invites/{code}", "of elsewhere"): lambda q: Call(
        path={"code": q.ids.foreign_code}
    ),
    ("GET /api/v1/invites/{code}", "revoked"): lambda q: Call(path={"code": q.ids.revoked_code}),
    ("POST /api/v1/invites/{code}/join", "revoked"): lambda q: Call(
        path={"code": q.ids.revoked_code}
    ),
    ("POST " + CHAT + "/read", ""): lambda q: Call(body={"message_id": q.ids.message_id}),
    ("POST " + CHAT + "/read", "a message of elsewhere"): lambda q: Call(
        body={"message_id": q.ids.foreign_message_id}
    ),
    ("POST /api/v1/messages/", ""): _message,
    ("POST /api/v1/messages/", "a reply to elsewhere"): lambda q: _message(
        q, reply_to_message_id=q.ids.foreign_message_id
    ),
    ("POST /api/v1/messages/", "a file of mine"): _show_mine,
    ("POST /api/v1/messages/", "a file of elsewhere"): _show_foreign,
    ("POST /api/v1/messages/", "forward from it"): _forward_out,
    ("POST /api/v1/messages/", "forward into it"): _forward_in,
    ("PUT " + MESSAGE, "the owner's"): _change(text="Changed"),
    ("PUT " + MESSAGE, "my own"): _own(body={"text": "Changed"}),
    ("DELETE " + MESSAGE, "the owner's for all"): lambda _: Call(query=FOR_ALL),
    ("DELETE " + MESSAGE, "my own for all"): _own(query=FOR_ALL),
    ("POST /api/v1/updates/difference", ""): _difference,
}


# Preparations


async def _befriend(question: Question) -> None:
    target = question.cast.target
    contacts = [{"phone": target.phone, "first_name": "Target"}]
    await question.cast.owner.post("/users/contacts", {"contacts": contacts}, expect=200)


async def _promote_target(question: Question) -> None:
    """With the very rights that the admin has."""
    path = f"/chats/{question.ids.chat_id}/members"
    listed = await question.cast.owner.walk(path, filter="admins")
    admin_id = question.cast.people["admin"].id
    rights = next(it["permissions"] for it in listed if it["user"]["id"] == admin_id)
    body = {
        "role": "admin",
        "permissions": [it for it in rights if it not in {"send_messages", "send_media"}],
    }
    await question.cast.owner.put(f"{path}/{question.cast.target.id}", body, expect=200)


async def _block_again(question: Question) -> None:
    await question.cast.owner.put(
        f"/users/blocked/{question.cast.people['blocked'].id}", expect=200
    )


PREPARATIONS: dict[tuple[str, str], Callable[[Question], Awaitable[None]]] = {
    ("GET /api/v1/users/contacts", "the owner's contact is in it"): _befriend,
    ("DELETE /api/v1/users/contacts/{user_id}", "the owner's"): _befriend,
    ("DELETE /api/v1/users/blocked/{user_id}", "whom the owner blocks"): _block_again,
    ("PUT " + MEMBER, "restrict an admin"): _promote_target,
    ("PUT " + MEMBER, "ban an admin"): _promote_target,
    ("DELETE " + MEMBER, "an admin"): _promote_target,
}
