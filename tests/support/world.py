"""A small world in which every operation has something to work on, and a good request for each."""

from dataclasses import dataclass
from typing import Any

from tests.support.people import API, Backend, Person, new_id
from tests.support.shown_files import upload
from tests.support.tus import BODY_TYPE, TUS, Upload, begin
from tests.support.uploads import BOUNDARY, FILE_HEAD, FORM_END

Json = Any  # what json.loads answers
PASSWORD = "correct horse battery"


@dataclass(kw_only=True)
class World:
    """Anna owns everything; Bruno is in her group and contacts, Clara blocked, David a stranger."""

    anna: Person
    bruno: Person
    clara: Person
    david: Person
    private: Json
    group: Json
    public: Json
    foreign_public: Json
    message: Json
    theirs: Json
    file: Json
    invite: Json
    foreign_invite: Json
    other_session: int
    verification_id: str
    code: str
    password_token: str
    epoch: str
    public_name: str
    spare_file: Json
    uploads: dict[str, Upload]

    def path_value(self, operation: str, name: str) -> object:
        """What stands for a path parameter in a good request."""
        if name == "chat_id":
            return self._chat_for(operation)
        if name == "user_id":
            return self._user_for(operation)
        if name == "token":
            return self.uploads[operation.partition(" ")[0]].path.rpartition("/")[2]
        values: dict[str, object] = {
            "message_id": self.message["id"],
            "session_id": self.other_session,
            "file_type": self.spare_file["file_type"],
            "filename": self.spare_file["filename"],
            "code": self.invite["code"] if "/chats/" in operation else self.foreign_invite["code"],
        }
        return values[name]

    def body(self, operation: str) -> object:
        """A good body; None for an operation without one."""
        chat, bruno = self.group["id"], self.bruno.id
        bodies: dict[str, object] = {
            "POST /auth/send-verification": {"phone": self.david.phone},
            "POST /auth/verify-code": {
                "verification_id": self.verification_id,
                "code": self.code,
                "first_name": "Emil",
            },
            "POST /auth/verify-password": {
                "password_token": self.password_token,
                "password": PASSWORD,
            },
            "POST /auth/confirm": {"password": PASSWORD},
            "PUT /auth/two-step": {"password": "another fine horse"},
            "POST /auth/two-step/reset": {"password_token": self.password_token},
            "POST /auth/refresh-token": {"refresh_token": self.anna.tokens["refresh_token"]},
            "POST /auth/ws-ticket": {"chat_id": chat},
            "PUT /users/me": {"first_name": "Anna", "bio": "Hi"},
            "PUT /users/me/privacy": {"phone": "nobody"},
            "POST /users/contacts": {
                "contacts": [{"phone": self.david.phone, "first_name": "David"}]
            },
            "POST /chats/": {"type": "group", "title": "Group", "member_ids": [bruno]},
            "PUT /chats/{chat_id}": {"title": "New title"},
            "POST /chats/{chat_id}/members": {"user_ids": [self.david.id]},
            "PUT /chats/{chat_id}/members/{user_id}": {"role": "admin"},
            "POST /chats/{chat_id}/invites": {"max_uses": 5},
            "POST /chats/{chat_id}/read": {"message_id": self.theirs["id"]},
            "PUT /chats/{chat_id}/settings": {"is_pinned": True},
            "POST /messages/": {"chat_id": chat, "text": "Hello", "client_message_id": new_id()},
            "PUT /messages/{message_id}": {"text": "Edited"},
            "POST /updates/difference": {"epoch": self.epoch, "state": {"user": 0}},
        }
        return bodies.get(operation)

    def form(self, operation: str) -> dict[str, Any]:
        """Of a good request that is not JSON, for `Person.call`: headers and body; empty for all others."""
        bytes_of_tus = {"content": b"bytes", "headers": TUS | {"Content-Type": BODY_TYPE}}
        offset, override = {"Upload-Offset": "0"}, {"X-HTTP-Method-Override": "PATCH"}
        match operation:
            case "POST /files/upload":
                content = FILE_HEAD + b"a file" + FORM_END
                kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
                return {"content": content, "headers": kind}
            case "POST /files/tus":
                return {"headers": TUS | {"Upload-Length": "5"}}
            case "PATCH /files/tus/{token}":
                return bytes_of_tus | {"headers": bytes_of_tus["headers"] | offset}
            case "POST /files/tus/{token}":
                return bytes_of_tus | {"headers": bytes_of_tus["headers"] | offset | override}
            case "HEAD /files/tus/{token}" | "DELETE /files/tus/{token}":
                return {"headers": TUS}
            case _:
                return {}

    def query(self, operation: str) -> dict[str, object]:
        queries: dict[str, dict[str, object]] = {
            "GET /users/search": {"q": self.public_name[:6]},
            "GET /chats/resolve": {"username": self.public_name},
        }
        return queries.get(operation, {})

    def substitutes(self) -> dict[str, object]:
        """Existing values by the names that members of bodies have."""
        return {
            "user_id": self.bruno.id,
            "user_ids": [self.bruno.id, self.david.id],
            "member_ids": [self.bruno.id],
            "chat_id": self.group["id"],
            "message_id": self.message["id"],
            "message_ids": [self.message["id"]],
            "reply_to_message_id": self.message["id"],
            "attachments": [self.file["id"]],
            "verification_id": self.verification_id,
            "password_token": self.password_token,
            "password": PASSWORD,
            "refresh_token": self.anna.tokens["refresh_token"],
            "epoch": self.epoch,
            "phone": self.david.phone,
        }

    def _chat_for(self, operation: str) -> int:
        if operation.endswith("/join"):
            return self.foreign_public["id"]
        if operation.endswith("/leave"):
            return self.public["id"]
        return self.group["id"]

    def _user_for(self, operation: str) -> int:
        return self.clara.id if "/users/blocked/" in operation else self.bruno.id

    async def is_whole(self) -> bool:
        """Whether the requests so far left what the next ones need."""
        paths = (
            "/users/me",
            f"/chats/{self.public['id']}",
            f"/chats/{self.group['id']}/members",
            f"/messages/{self.message['id']}",
            f"/messages/{self.theirs['id']}",
            self.spare_file["url"].removeprefix(API),
        )
        answers = [await self.anna.call("GET", path) for path in paths]
        return all(answer.is_success for answer in answers)


async def make_world(backend: Backend) -> World:
    anna, bruno, clara, david = await backend.people(4)
    await anna.put("/auth/two-step", {"password": PASSWORD})
    other = await backend.sign_in(anna.phone, password=PASSWORD, device_name="Other")
    sessions = (await anna.get("/auth/sessions"))["items"]
    contacts = [{"phone": bruno.phone, "first_name": "Bruno"}]
    await anna.post("/users/contacts", {"contacts": contacts})
    await anna.put(f"/users/blocked/{clara.id}")
    group = await anna.group("Group", [bruno])
    message = await anna.say(group, "Mine")
    theirs = await bruno.say(group, "Theirs")
    name = "fuzz_" + new_id()[:8]
    public = await bruno.group("Public", [anna], username=name)
    foreign = await david.group("Foreign", username="far_" + new_id()[:8])
    socket = await other.connect()
    await socket.close()
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    half = await backend.stranger().post("/auth/verify-code", body, expect=200)
    password_token = half["password_token"]
    await backend.stranger().post("/auth/two-step/reset", {"password_token": password_token})
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    return World(
        anna=anna,
        bruno=bruno,
        clara=clara,
        david=david,
        private=await anna.private_chat(bruno),
        group=group,
        public=public,
        foreign_public=foreign,
        message=message,
        theirs=theirs,
        file=await upload(anna, "document"),
        invite=await anna.post(f"/chats/{group['id']}/invites", {}, expect=201),
        foreign_invite=await david.post(f"/chats/{foreign['id']}/invites", {}, expect=201),
        other_session=next(item["id"] for item in sessions if item["device_name"] == "Other"),
        verification_id=verification_id,
        code=code,
        password_token=password_token,
        epoch=socket.hello["epoch"],
        public_name=name,
        spare_file=await anna.upload(b"a file of my own", name="page.txt"),
        uploads={
            method: await begin(anna, 5) for method in ("GET", "HEAD", "PATCH", "POST", "DELETE")
        },
    )
