"""Files as people send them: made here, each like no other, and uploaded as browsers do."""

import io
import itertools
import wave

import av
import httpx
from PIL import Image

from tests.support.people import Json, Person
from tests.support.waiting import eventually

# All test runs share the machine of the gate.
_PATIENCE_SECONDS = 60

_numbers = itertools.count(1)


def make_photo(*, size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG of one colour."""
    number = next(_numbers)
    colour = (number % 256, number // 256 % 256, number // 65_536 % 256)
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, "PNG")
    return written.getvalue()


def make_sound(*, seconds: float = 0.2) -> bytes:
    """A WAV."""
    number = next(_numbers)
    written = io.BytesIO()
    with wave.open(written, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(number.to_bytes(2, "little") * int(8000 * seconds))
    return written.getvalue()


def make_film(*, size: tuple[int, int] = (64, 48), frames: int = 5) -> bytes:
    """An MP4 without sound."""
    shade = next(_numbers) % 256
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([(shade + 16 * number) % 256]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return written.getvalue()


def make_text() -> bytes:
    """A document."""
    return f"Page {next(_numbers)}\n".encode() * 20


MAKERS = {
    "photo": (make_photo, "photo.png"),
    "video": (make_film, "film.mp4"),
    "audio": (make_sound, "song.wav"),
    "voice": (make_sound, "voice.wav"),
    "document": (make_text, "page.txt"),
}


async def upload(person: Person, kind: str = "photo", *, content: bytes | None = None) -> Json:
    """A new File of this type."""
    make, name = MAKERS[kind]
    purpose = "voice" if kind == "voice" else None
    file = await person.upload(content or make(), name=name, purpose=purpose)
    assert file["file_type"] == kind, file
    return file


async def upload_all(person: Person, *kinds: str) -> list[Json]:
    return [await upload(person, kind) for kind in kinds]


async def show(person: Person, chat: Json, *kinds: str, **fields: object) -> Json:
    """A message with new files of these types."""
    ids = [file["id"] for file in await upload_all(person, *(kinds or ("photo",)))]
    body = {"chat_id": chat["id"], "attachments": ids, **fields}
    return await person.post("/messages/", body, expect=201)


async def known(person: Person, message: Json) -> list[Json]:
    """The files of a message, once all is known of them."""

    async def is_known() -> bool:
        files = (await person.get(f"/messages/{message['id']}"))["attachments"]
        return not any(file.get("is_processing") for file in files)

    await eventually(is_known, timeout_seconds=_PATIENCE_SECONDS, what="the end of the work")
    return (await person.get(f"/messages/{message['id']}"))["attachments"]


async def fetch(person: Person, file: Json, *, expect: int = 200) -> httpx.Response:
    """What lies at the URL of a File or thumbnail, for this person."""
    return await person.download(file, expect=expect)
