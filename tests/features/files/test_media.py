"""Photos, films and sounds over HTTP: what is made of them, what is told when, and what is left as it was."""

import asyncio
import hashlib
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.support.media import (
    PLACE,
    animation,
    camera_photo,
    corners,
    encode,
    metadata,
    png,
    sound,
    tracks_last,
    turned,
    video,
    zip_bomb,
)
from tests.support.own_deployments import own_deployment
from tests.support.people import Backend, Deployment, Json, Person
from tests.support.rows import change_rows, read_values
from tests.support.shown_files import known
from tests.support.tus import begin, describe, try_to_begin
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

# Eight test runs share the machine of the gate.
_PATIENCE_SECONDS = 60
PAGE = b"<!DOCTYPE html><script>alert(document.domain)</script>"


async def post(person: Person, chat: Json, *files: Json) -> Json:
    body = {"chat_id": chat["id"], "attachments": [file["id"] for file in files]}
    return await person.post("/messages/", body, expect=201)


async def check_thumbnails(person: Person, file: Json, **sizes: tuple[int, int]) -> None:
    found = {it["size"]: (it["width"], it["height"]) for it in file["thumbnails"]}
    assert found == sizes
    assert file["thumbnail_url"] in {it["url"] for it in file["thumbnails"]}
    for size, expected in sizes.items():
        answer = await person.download(file, thumbnail=size)
        assert answer.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(answer.content)).size == expected
        assert PLACE not in answer.content


# Photos


async def test_a_photo_is_upright_and_tells_nothing_of_its_place(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    original = camera_photo(orientation=6)
    assert PLACE in original
    file = await anna.upload(original, name="IMG_0001.jpg")
    assert (file["file_type"], file["mime_type"]) == ("photo", "image/jpeg")
    assert (file["width"], file["height"]) == (480, 640)
    assert file["filename"].endswith(".jpg")
    assert file["placeholder"]
    assert "is_processing" not in file
    message = await post(anna, await anna.private_chat(bruno), file)
    assert message["attachments"] == [file]
    for person in (anna, bruno):
        answer = await person.download(file)
        assert answer.headers["content-type"] == "image/jpeg"
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert len(answer.content) == file["size"]
        assert not [word for word in (PLACE, b"Exif", b"GPS", b"8BIM") if word in answer.content]
        assert Image.open(io.BytesIO(answer.content)).size == (480, 640)
        await check_thumbnails(person, file, small=(240, 320), medium=(480, 640))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
async def test_every_format_of_photos_is_made_anew(backend: Backend, kind: str) -> None:
    anna = await backend.sign_up()
    image = corners(2000, 1000, "P" if kind == "GIF" else "RGB")
    options = {"comment": PLACE} if kind == "GIF" else {"exif": metadata(1)}
    original = encode(image, kind, **options)
    assert PLACE in original
    file = await anna.upload(original + PAGE, name="picture.html")
    assert (file["file_type"], file["mime_type"]) == ("photo", f"image/{kind.lower()}")
    assert (file["width"], file["height"]) == (2000, 1000)
    answer = await anna.download(file)
    assert PLACE not in answer.content
    assert PAGE not in answer.content
    assert Image.open(io.BytesIO(answer.content)).format == kind
    await check_thumbnails(anna, file, small=(320, 160), medium=(1280, 640))


async def test_an_animation_is_a_photo_that_moves(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(animation("GIF", frames=6), name="party.gif")
    assert (file["file_type"], file["mime_type"]) == ("photo", "image/webp")
    assert (file["original_name"], file["filename"][-5:]) == ("party.gif", ".webp")
    image = Image.open(io.BytesIO((await anna.download(file)).content))
    assert getattr(image, "n_frames", 1) == 6
    await check_thumbnails(anna, file, small=(120, 80), medium=(120, 80))


async def test_a_polyglot_is_a_photo_and_nothing_else(backend: Backend) -> None:
    anna = await backend.sign_up()
    original = encode(corners(), "JPEG", comment=PAGE) + PAGE
    file = await anna.upload(original, name="page.html")
    assert file["mime_type"] == "image/jpeg"
    answer = await anna.download(file)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert PAGE not in answer.content


async def test_a_photo_sent_as_a_document_stays_as_it_is(backend: Backend) -> None:
    anna = await backend.sign_up()
    original = camera_photo(orientation=8)
    file = await anna.upload(original, name="IMG_0001.jpg", purpose="document")
    assert file["file_type"] == "document"
    assert not {"width", "height", "thumbnails", "thumbnail_url", "placeholder"} & set(file)
    assert file["sha256"] == hashlib.sha256(original).hexdigest()
    assert (await anna.download(file)).content == original
    await anna.download(file, thumbnail="small", expect=404)
    # The same bytes as a photo are another matter.
    photo = await anna.upload(original, name="IMG_0001.jpg")
    assert photo["file_type"] == "photo"
    assert PLACE not in (await anna.download(photo)).content


NO_PHOTOS = {
    "cut off": lambda: camera_photo()[:3000],
    "a page": lambda: b"\xff\xd8\xff\xe0" + PAGE,
    "a bomb": lambda: png(50_000, 50_000, rows=10),
    "20 KB for 800 MB": lambda: png(14_000, 14_000, rows=1400),
    "a film of pictures": lambda: animation("GIF", frames=2000, size=(8, 8)),
}


@pytest.mark.parametrize("name", NO_PHOTOS)
async def test_what_is_no_sound_photo_is_taken_as_a_document_alone(
    backend: Backend, name: str
) -> None:
    """Kept as it was sent it might tell where it was taken, so whoever sends it has to say that it shall."""
    anna = await backend.sign_up()
    original = NO_PHOTOS[name]()
    for purpose in ("attachment", "photo"):
        refused = await anna.upload(
            original, name="photo.jpg", purpose=purpose, expect=422, code="photo_invalid"
        )
        assert refused["errors"][0]["field"] == "file"
        assert "purpose=document" in refused["errors"][0]["message"]
    file = await anna.upload(original, name="photo.jpg", purpose="document")
    assert file["file_type"] == "document"
    assert "width" not in file
    answer = await anna.download(file)
    assert answer.content == original
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


RAW_PHOTOS = {
    "IMG_0001.heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + PLACE,
    "photo.avif": lambda: b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + PLACE,
    "photo.tiff": lambda: encode(corners(), "TIFF", exif=metadata(1)),
    "photo.jxl": lambda: b"\xff\x0a" + PLACE,
    "photo.jp2": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + PLACE,
    "photo.x3f": lambda: b"FOVb" + PLACE,
    "photo.mp4": lambda: b"\0\0\0\x1cftypMiHE\0\0\0\0mif1heic" + PLACE,
    "photo.cr3": lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + PLACE,
}


@pytest.mark.parametrize("name", RAW_PHOTOS)
async def test_a_photo_that_cannot_be_made_anew_is_taken_as_a_document_alone(
    backend: Backend, name: str
) -> None:
    """Its camera wrote into it where it was taken, so whoever sends it has to say that it shall stay."""
    anna = await backend.sign_up()
    original = RAW_PHOTOS[name]()
    assert PLACE in original
    for purpose in (None, "attachment", "photo"):
        refused = await anna.upload(
            original, name=name, purpose=purpose, expect=422, code="photo_invalid"
        )
        assert "purpose=document" in refused["errors"][0]["message"]
    upload = await try_to_begin(anna, len(original), content=original)
    assert (upload.status_code, upload.json()["code"]) == (422, "photo_invalid")
    file = await anna.upload(original, name=name, purpose="document")
    assert (file["file_type"], file["original_name"]) == ("document", name)
    assert (await anna.download(file)).content == original


@pytest.mark.parametrize(("name", "purpose"), [("report.docx", None), ("photo.jpg", "document")])
async def test_a_zip_bomb_is_kept_as_it_was_sent(
    backend: Backend, name: str, purpose: str | None
) -> None:
    anna, bruno = await backend.people(2)
    original = zip_bomb()
    assert len(original) < 200_000
    file = await anna.upload(original, name=name, purpose=purpose)
    assert (file["file_type"], file["mime_type"]) == ("document", "application/zip")
    assert (file["size"], file["sha256"]) == (len(original), hashlib.sha256(original).hexdigest())
    # Nothing is looked into: there is no more to be known of it, now or later.
    assert not {"width", "duration", "thumbnails", "thumbnail_url", "is_processing"} & set(file)
    [shown] = await known(bruno, await post(anna, await anna.private_chat(bruno), file))
    assert shown == file
    answer = await bruno.download(file)
    assert answer.content == original
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "content-encoding" not in answer.headers


async def test_for_a_photo_only_a_photo_will_do(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(camera_photo(), purpose="photo")
    assert file["file_type"] == "photo"
    for other in (video(), sound(), PAGE, b"%PDF-1.7\n"):
        await anna.upload(other, purpose="photo", expect=422, code="photo_invalid")


# Films and sounds


async def test_a_film_is_readable_at_once_and_told_when_it_is_known(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    chat = await anna.private_chat(bruno)
    socket = await bruno.connect()
    original = turned(video(size=(640, 360), seconds=3, black=0.2, audio="aac"), degrees=90)
    file = await anna.upload(original, name="VID_0001.mp4")
    assert (file["file_type"], file["mime_type"]) == ("video", "video/mp4")
    assert file["sha256"] == hashlib.sha256(original).hexdigest()
    message = await post(anna, chat, file)
    if message["attachments"][0].get("is_processing"):
        frame = await socket.expect(
            "message_edited", {"id": message["id"]}, timeout_seconds=_PATIENCE_SECONDS
        )
        assert frame["data"]["edited_at"] is None
    [film] = await known(bruno, message)
    assert (film["width"], film["height"]) == (360, 640)
    assert film["duration"] == pytest.approx(3, abs=0.1)
    assert film["placeholder"]
    assert "waveform" not in film
    for person in (anna, bruno):
        await check_thumbnails(person, film, small=(180, 320), medium=(360, 640))
        part = await person.download(film, expect=206, Range="bytes=100-199")
        assert part.content == original[100:200]
        assert part.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [("opus", "audio/ogg"), ("webm", "audio/webm"), ("m4a", "audio/mp4"), ("mp3", "audio/mpeg")],
)
async def test_a_voice_has_its_length_and_shape(
    backend: Backend, name: str, mime_type: str
) -> None:
    anna = await backend.sign_up()
    container, codec = {
        "opus": ("ogg", "libopus"),
        "webm": ("webm", "libopus"),
        "m4a": ("ipod", "aac"),
        "mp3": ("mp3", "libmp3lame"),
    }[name]
    original = sound(container=container, codec=codec, level=lambda at: 0.05 if at < 1 else 0.6)
    file = await anna.upload(original, name="voice", purpose="voice")
    assert file["file_type"] == "voice"
    message = await post(anna, await anna.private_chat(anna), file)
    assert message["type"] == "voice"
    [voice] = await known(anna, message)
    assert voice["mime_type"] == mime_type
    assert voice["duration"] == pytest.approx(2, abs=0.1)
    assert len(voice["waveform"]) == 100
    assert max(voice["waveform"]) == 31
    assert sum(voice["waveform"][55:95]) > 2 * sum(voice["waveform"][5:45])
    assert (await anna.download(voice)).content == original


async def test_music_is_audio(backend: Backend) -> None:
    anna = await backend.sign_up()
    file = await anna.upload(sound(container="mp3", codec="libmp3lame"), name="song.mp3")
    assert file["file_type"] == "audio"
    [music] = await known(anna, await post(anna, await anna.private_chat(anna), file))
    assert music["duration"] == pytest.approx(2, abs=0.1)


async def by_tus(person: Person, content: bytes, **metadata: str) -> Json:
    """What has become of an upload by the other door."""
    upload = await begin(person, len(content), content=content, metadata=describe(**metadata))
    return await upload.standing()


async def test_a_recording_is_sound_wherever_it_lists_its_tracks(backend: Backend) -> None:
    """Recorders write the list behind everything else."""
    anna = await backend.sign_up()
    recording = tracks_last(sound(container="mp4", codec="aac"))
    for purpose, file_type in (("attachment", "audio"), ("voice", "voice")):
        file = await anna.upload(recording, name="a.mp4", purpose=purpose)
        assert (file["file_type"], file["mime_type"]) == (file_type, "audio/mp4")
        assert file["filename"].endswith(".m4a")
        other = recording + purpose.encode()
        told = await by_tus(anna, other, filename="a.mp4", purpose=purpose)
        assert (told["file"]["file_type"], told["file"]["mime_type"]) == (file_type, "audio/mp4")


async def test_a_film_is_no_voice_wherever_it_lists_its_tracks(backend: Backend) -> None:
    anna = await backend.sign_up()
    film = tracks_last(video(audio="aac"))
    await anna.upload(film, purpose="voice", expect=422, code="voice_invalid")
    upload = await try_to_begin(
        anna, len(film), content=film, metadata=describe(filename="a", purpose="voice")
    )
    assert (upload.status_code, upload.json()["code"]) == (422, "voice_invalid")
    assert (await anna.upload(film))["file_type"] == "video"


async def test_only_sound_alone_is_a_voice(backend: Backend) -> None:
    anna = await backend.sign_up()
    for other in (video(), camera_photo(), PAGE):
        await anna.upload(other, purpose="voice", expect=422, code="voice_invalid")


async def test_a_film_that_cannot_be_understood_stays_readable(backend: Backend) -> None:
    anna = await backend.sign_up()
    original = video()[:-600]
    file = await anna.upload(original, name="broken.mp4")
    [film] = await known(anna, await post(anna, await anna.private_chat(anna), file))
    assert not {"width", "duration", "thumbnails"} & set(film)
    assert (await anna.download(film)).content == original


# Whatever is killed


@pytest.fixture(params=["sqlite", "postgresql"])
def own(request: pytest.FixtureRequest, directory: Path) -> Iterator[Deployment]:
    with own_deployment(request, directory, {}) as made:
        yield made


@pytest.fixture
async def lone(own: Deployment, anyio_backend: str) -> AsyncIterator[Backend]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(own, stack)


async def test_work_that_a_kill_cut_off_is_done_after_the_start(
    lone: Backend, own: Deployment
) -> None:
    anna = await lone.sign_up()
    chat = await anna.private_chat(anna)
    messages = [
        await post(anna, chat, await anna.upload(video(seconds=2 + number), name="film.mp4"))
        for number in range(4)
    ]
    for node in own.nodes:
        node.kill()
    left = await read_values(own, "SELECT count(*) FROM file_work")
    # What a killed worker had taken up is taken up again when it was not heard of for minutes.
    await change_rows(own, "UPDATE file_work SET due_at = (SELECT min(created_at) FROM files)")
    for node in own.nodes:
        node.start()
    for number, message in enumerate(messages):
        [film] = await known(anna, message)
        assert film["duration"] == pytest.approx(2 + number, abs=0.1)
        await check_thumbnails(anna, film, small=(320, 240), medium=(320, 240))
    assert await read_values(own, "SELECT count(*) FROM file_work") == [0]
    assert left != [0], "all was done before the kill: nothing was shown"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_decoders_that_are_killed_refuse_no_photo_for_good(
    lone: Backend, own: Deployment
) -> None:
    """As by a kernel that has no memory left, for a while."""
    anna = await lone.sign_up()
    # Long to decode, and known to nobody: an equal one would be there already.
    photo = encode(corners(6000, 5000), "JPEG")
    refused: list[bytes] = []
    killing = asyncio.create_task(kill_decoders(own))

    async def is_refused() -> bool:
        content = photo + len(refused).to_bytes(2, "big") + PAGE
        refused.append(content)
        answer = await anna.post_form(content, name="photo.jpg")
        if answer.status_code == 503:
            assert answer.json()["code"] == "media_busy"
            assert int(answer.headers["retry-after"]) > 0
            return True
        assert answer.status_code == 201, answer.text
        return False

    await eventually(is_refused, timeout_seconds=_PATIENCE_SECONDS, what="a refusal")
    killing.cancel()
    with suppress(asyncio.CancelledError):
        await killing
    assert (await anna.upload(refused[-1], name="photo.jpg"))["file_type"] == "photo"


async def kill_decoders(deployment: Deployment) -> None:
    """Each that has locked itself in, and is at work or about to be."""
    while True:
        for node in deployment.nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                with suppress(psutil.Error, OSError):
                    if is_locked_in(process):
                        process.kill()
        await asyncio.sleep(0.02)


def is_locked_in(process: psutil.Process) -> bool:
    is_decoder = "app.infra.media.photo_process" in process.cmdline()
    return is_decoder and "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
