"""The people and chats of the matrix. A scene is one chat with somebody in every role."""

import secrets
from dataclasses import dataclass, field, replace

from tests.support.people import Backend, Json, Person
from tests.support.photos import upload_photo
from tests.support.shown_files import upload
from tests.support.sockets import Socket

NEVER = 2**53 - 2
NEVER_CODE = "x" * 32
# All but to promote, and to pin: what the admin cannot give to all members.
ADMIN_RIGHTS = (
    "add_members",
    "change_info",
    "delete_messages",
    "ban_members",
    "invite_users",
)
MEMBERS = ("blocked", "ex_member", "banned", "restricted", "member", "admin")


@dataclass(frozen=True, kw_only=True)
class Ids:
    """What a request may name: of the scene, or of things that never were."""

    chat_id: int = NEVER
    message_id: int = NEVER
    own_message_id: int = NEVER
    user_id: int = NEVER
    session_id: int = NEVER
    code: str = NEVER_CODE
    revoked_code: str = NEVER_CODE
    foreign_message_id: int = NEVER
    foreign_code: str = NEVER_CODE
    foreign_file_id: int = NEVER
    foreign_photo_id: int = NEVER
    hermit_id: int = NEVER
    username: str = "never_was"

    def never(self, case: str) -> "Ids":
        """The same with ids that never were: of the other chat where the case is about one, else of all."""
        if "elsewhere" in case:
            return replace(
                self,
                foreign_message_id=NEVER,
                foreign_code=NEVER_CODE,
                foreign_file_id=NEVER,
                foreign_photo_id=NEVER,
            )
        return Ids()


@dataclass
class Cast:
    """Everybody who acts in one run. `hermit` has blocked everyone and hides his phone."""

    backend: Backend
    people: dict[str, Person]
    target: Person
    guest: Person
    hermit: Person
    pest: Person
    foreign_group: Json
    foreign_message: Json
    foreign_invite: Json
    foreign_file: Json
    foreign_photo: Json
    owners_session: int
    epoch: str
    # The owner's, and the last name of the target.
    username: str
    last_name: str
    # Of each role "Saved messages", and a message there.
    saved: dict[str, int]
    notes: dict[str, int]
    # Of each role a file of theirs.
    files: dict[str, int]
    # Of each role a photo that they have uploaded.
    photos: dict[str, int]
    # Of each chat a photo that its owner shows in it.
    shown: dict[int, Json] = field(default_factory=dict)
    sockets: dict[str, Socket] = field(default_factory=dict)

    @property
    def owner(self) -> Person:
        return self.people["owner"]

    async def socket(self, role: str) -> Socket:
        """One for all frames of a role."""
        if role not in self.sockets:
            self.sockets[role] = await self.people[role].connect()
        return self.sockets[role]


@dataclass
class Scene:
    """One chat. `ids_of` tells what each role would name."""

    kind: str
    ids: dict[str, Ids]
    chat: Json = None

    def ids_of(self, role: str) -> Ids:
        return self.ids[role]


async def make_cast(backend: Backend) -> Cast:
    names = ("stranger", *MEMBERS, "owner", "target", "guest", "hermit", "pest")
    people = {
        name: await backend.sign_up(
            first_name=name.title().replace("_", " "), last_name=f"{name}son"
        )
        for name in names
    }
    target, guest, hermit, pest = (people.pop(n) for n in ("target", "guest", "hermit", "pest"))
    owner = people["owner"]
    await owner.put(f"/users/blocked/{people['blocked'].id}", expect=200)
    owner_now = await owner.put("/users/me", {"username": "own_" + secrets.token_hex(6)})
    target_now = await target.put("/users/me", {"last_name": "Tar" + secrets.token_hex(6)})
    await hermit.put("/users/me/privacy", {"find_by_phone": "nobody"})
    for person in people.values():
        await hermit.put(f"/users/blocked/{person.id}", expect=200)
    saved = {role: await person.private_chat(person) for role, person in people.items()}
    notes = {role: await person.say(saved[role], "note") for role, person in people.items()}
    foreign = await guest.group("Elsewhere")
    socket = await owner.connect()
    sessions = (await owner.get("/auth/sessions"))["items"]
    cast = Cast(
        backend=backend,
        people={"nobody": backend.stranger(), **people},
        target=target,
        guest=guest,
        hermit=hermit,
        pest=pest,
        foreign_group=foreign,
        foreign_message=await guest.say(foreign, "elsewhere"),
        foreign_invite=await guest.post(f"/chats/{foreign['id']}/invites", {}, expect=201),
        foreign_file=await upload(guest, "document"),
        foreign_photo=await upload_photo(guest),
        owners_session=sessions[0]["id"],
        epoch=socket.hello["epoch"],
        username=owner_now["username"],
        last_name=target_now["last_name"],
        saved={role: chat["id"] for role, chat in saved.items()},
        notes={role: message["id"] for role, message in notes.items()},
        files={role: (await upload(person, "document"))["id"] for role, person in people.items()},
        photos={role: (await upload_photo(person))["id"] for role, person in people.items()},
    )
    await socket.close()
    return cast


async def make_scene(
    cast: Cast, kind: str, *, with_own: bool = False, with_invites: bool = False
) -> Scene:
    """A fresh chat, and people in it who are what their role says.

    `with_own`: everyone in it has written something before becoming what they are.
    `with_invites`: there are a link and a revoked one.
    """
    if kind == "private":
        return await _make_private(cast, with_own=with_own)
    if not kind:
        ids = Ids(
            user_id=cast.target.id,
            session_id=cast.owners_session,
            hermit_id=cast.hermit.id,
            foreign_photo_id=cast.foreign_photo["id"],
        )
        return Scene(kind, dict.fromkeys(cast.people, ids))
    scene = await _make_shared(cast, kind, with_own=with_own)
    return await _add_invites(cast, scene) if with_invites else scene


async def _make_private(cast: Cast, *, with_own: bool) -> Scene:
    """The owner's chat with the blocked one, and with the member; the others look at the latter."""
    ids: dict[str, Ids] = {}
    chat: Json = None
    blocked = f"/users/blocked/{cast.people['blocked'].id}"
    await cast.owner.call("DELETE", blocked)
    for role in ("blocked", "member"):
        person = cast.people[role]
        chat = await cast.owner.private_chat(person)
        own = await person.say(chat, "mine") if with_own else {"id": NEVER}
        message = await cast.owner.say(chat, "the owner's")
        ids[role] = _fill(cast, chat, message, own_message_id=own["id"], user_id=cast.owner.id)
    await cast.owner.put(blocked, expect=200)
    others = {role: ids["member"] for role in cast.people if role not in ids}
    return Scene("private", ids | others, chat)


async def _make_shared(cast: Cast, kind: str, *, with_own: bool) -> Scene:
    owner, people = cast.owner, cast.people
    is_channel = kind.endswith("channel")
    # A channel restricts nobody: its members only read.
    inside = [role for role in MEMBERS if not (is_channel and role == "restricted")]
    options: dict[str, object] = {}
    if kind.startswith("public"):
        options["username"] = "pub_" + secrets.token_hex(8)
    make = owner.channel if is_channel else owner.group
    members = [people[role] for role in inside]
    chat = await make("Scene", [*members, cast.target], **options)
    place = f"/chats/{chat['id']}"
    own: dict[str, int] = {}
    if with_own:
        own = await _let_all_speak(cast, chat, inside, is_channel=is_channel)
    rights = [*ADMIN_RIGHTS, "post_messages"] if is_channel else list(ADMIN_RIGHTS)
    roles: dict[str, Json] = {
        "admin": {"role": "admin", "permissions": rights},
        "ex_member": {"role": "left"},
        "banned": {"role": "banned"},
    }
    if not is_channel:
        roles["restricted"] = {"role": "restricted", "permissions": []}
    for role, body in roles.items():
        await owner.put(f"{place}/members/{people[role].id}", body, expect=200)
    message = await owner.say(chat, "the owner's")
    shared = _fill(
        cast,
        chat,
        message,
        user_id=cast.target.id,
        username=chat["username"] or "never_was",
    )
    ids = {role: replace(shared, own_message_id=own.get(role, NEVER)) for role in people}
    return Scene(kind, ids, chat)


async def _add_invites(cast: Cast, scene: Scene) -> Scene:
    path = f"/chats/{scene.chat['id']}/invites"
    invite = await cast.owner.post(path, {}, expect=201)
    revoked = await cast.owner.post(path, {}, expect=201)
    await cast.owner.delete(f"{path}/{revoked['code']}", expect=204)
    codes = {"code": invite["code"], "revoked_code": revoked["code"]}
    ids = {role: replace(known, **codes) for role, known in scene.ids.items()}
    return Scene(scene.kind, ids, scene.chat)


async def _let_all_speak(
    cast: Cast, chat: Json, inside: list[str], *, is_channel: bool
) -> dict[str, int]:
    """In a channel they are admins as they speak, and no longer afterwards."""
    own: dict[str, int] = {}
    for role in (*inside, "owner"):
        person = cast.people[role]
        path = f"/chats/{chat['id']}/members/{person.id}"
        if is_channel and role != "owner":
            promoted = {"role": "admin", "permissions": ["post_messages"]}
            await cast.owner.put(path, promoted, expect=200)
        own[role] = (await person.say(chat, f"by {role}"))["id"]
        if is_channel and role != "owner":
            await cast.owner.put(path, {"role": "member"}, expect=200)
    return own


def _fill(cast: Cast, chat: Json, message: Json, **others: object) -> Ids:
    known: dict[str, object] = {
        "chat_id": chat["id"],
        "message_id": message["id"],
        "session_id": cast.owners_session,
        "foreign_message_id": cast.foreign_message["id"],
        "foreign_code": cast.foreign_invite["code"],
        "foreign_file_id": cast.foreign_file["id"],
        "foreign_photo_id": cast.foreign_photo["id"],
        "hermit_id": cast.hermit.id,
    }
    return Ids(**(known | others))  # type: ignore[arg-type]
