"""A plain speaker of tus 1.0: one request a call, so that tests say what goes over the line."""

import base64
import hashlib
from dataclasses import dataclass

import httpx

from tests.support.people import Json, Person

PATH = "/files/tus"
BODY_TYPE = "application/offset+octet-stream"
TUS = {"Tus-Resumable": "1.0.0"}


@dataclass
class Upload:
    """An upload as its person sees it; `path` is where it goes on."""

    person: Person
    path: str
    begun: httpx.Response

    async def patch(
        self,
        content: bytes,
        offset: int,
        *,
        person: Person | None = None,
        override: bool = False,
        **headers: str,
    ) -> httpx.Response:
        """`override`: by `POST`, where `PATCH` does not get through."""
        method = "POST" if override else "PATCH"
        head = TUS | {"Content-Type": BODY_TYPE, "Upload-Offset": str(offset)}
        if override:
            head["X-HTTP-Method-Override"] = "PATCH"
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        sender = person or self.person
        return await sender.call(method, self.path, content=content, headers=head)

    async def head(self, person: Person | None = None) -> httpx.Response:
        return await (person or self.person).call("HEAD", self.path, headers=TUS)

    async def offset(self) -> int:
        answer = await self.head()
        assert answer.status_code == 200, answer.status_code
        return int(answer.headers["upload-offset"])

    async def standing(self) -> Json:
        return await self.person.get(self.path)

    async def terminate(self, person: Person | None = None) -> httpx.Response:
        return await (person or self.person).call("DELETE", self.path, headers=TUS)


async def begin(
    person: Person,
    length: int | None,
    *,
    content: bytes | None = None,
    metadata: str | None = None,
    **headers: str,
) -> Upload:
    """`length` None: it is told later. `content`: bytes that come with the beginning."""
    answer = await try_to_begin(person, length, content=content, metadata=metadata, **headers)
    assert answer.status_code == 201, answer.text
    path = answer.headers["location"].removeprefix("/api/v1")
    assert path.startswith(PATH + "/")
    return Upload(person, path, answer)


async def try_to_begin(
    person: Person,
    length: int | None,
    *,
    content: bytes | None = None,
    metadata: str | None = None,
    **headers: str,
) -> httpx.Response:
    told = {"Upload-Length": str(length)} if length is not None else {"Upload-Defer-Length": "1"}
    head = TUS | told | {name.replace("_", "-"): value for name, value in headers.items()}
    if metadata is not None:
        head["Upload-Metadata"] = metadata
    if content is not None:
        head.setdefault("Content-Type", BODY_TYPE)
    return await person.call("POST", PATH, content=content, headers=head)


def describe(**values: str) -> str:
    """`Upload-Metadata` that says this."""
    return ",".join(
        f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items()
    )


def checksum(content: bytes, algorithm: str = "sha1") -> str:
    """`Upload-Checksum` of these bytes."""
    digest = hashlib.new(algorithm, content).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"
