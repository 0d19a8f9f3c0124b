"""Films and sounds: how long, how large, what they look and sound like."""

import io
import struct
from pathlib import Path

import av
import pytest
from PIL import Image

from app.infra.media.clip import probe
from app.infra.media.detect import HEAD_BYTES, detect
from app.infra.media.port import Clip, MediaBroken
from app.infra.media.processor import MediaProcessor
from tests.support.media import camera_photo, sound, turned, video
from tests.unit.infra.media.sources import Bytes, Repeated, Spread
from tests.unit.infra.media.test_photos import UPRIGHT, colours, show

pytestmark = pytest.mark.anyio


async def look(media: MediaProcessor, content: bytes) -> Clip:
    detected = detect(content[:HEAD_BYTES])
    return await media.probe_clip(Bytes(content), format=detected.format)


FILMS = {
    "mp4": ({"audio": "aac"}, "video/mp4"),
    "mp4 in pieces": ({"options": {"movflags": "frag_keyframe+empty_moov"}}, "video/mp4"),
    "mp4 for the web": ({"options": {"movflags": "faststart"}}, "video/mp4"),
    "hevc": ({"codec": "libx265"}, "video/mp4"),
    "av1": ({"codec": "libsvtav1"}, "video/mp4"),
    "mpeg-4": ({"codec": "mpeg4"}, "video/mp4"),
    "mov": ({"container": "mov", "audio": "aac"}, "video/quicktime"),
    "3gp": ({"container": "3gp", "codec": "mpeg4"}, "video/mp4"),
    "webm": ({"container": "webm", "codec": "libvpx", "audio": "libopus"}, "video/webm"),
    "vp9": ({"container": "webm", "codec": "libvpx-vp9"}, "video/webm"),
    "from a browser": (
        {"container": "webm", "codec": "libvpx", "options": {"live": "1"}},
        "video/webm",
    ),
}


@pytest.mark.parametrize("name", FILMS)
async def test_a_film_has_length_size_and_a_picture(media: MediaProcessor, name: str) -> None:
    options, mime_type = FILMS[name]
    clip = await look(media, video(**options))
    assert clip.mime_type == mime_type
    assert clip.duration_ms == pytest.approx(2000, abs=60)
    assert (clip.has_video, clip.has_audio) == (True, "audio" in options)
    assert (clip.width, clip.height) == (320, 240)
    assert clip.waveform is None
    assert clip.placeholder
    for name_, size in (("medium", (320, 240)), ("small", (320, 240))):
        rendition = clip.renditions[name_]
        assert (rendition.width, rendition.height) == size == show(rendition.content).size
        assert colours(show(rendition.content)) == UPRIGHT


SOUNDS = {
    "opus": ({}, "audio/ogg"),
    "ogg of flac": ({"codec": "flac"}, "audio/ogg"),
    "mp3": ({"container": "mp3", "codec": "libmp3lame"}, "audio/mpeg"),
    "aac": ({"container": "adts", "codec": "aac"}, "audio/aac"),
    "m4a": ({"container": "ipod", "codec": "aac"}, "audio/mp4"),
    "mp4": ({"container": "mp4", "codec": "aac"}, "audio/mp4"),
    "mov": ({"container": "mov", "codec": "aac"}, "audio/mp4"),
    "alac": ({"container": "ipod", "codec": "alac"}, "audio/mp4"),
    "wav": ({"container": "wav", "codec": "pcm_s16le"}, "audio/wav"),
    "wav of 32 bits": ({"container": "wav", "codec": "pcm_s32le"}, "audio/wav"),
    "wav of floats": ({"container": "wav", "codec": "pcm_f32le"}, "audio/wav"),
    "flac": ({"container": "flac", "codec": "flac"}, "audio/flac"),
    "webm": ({"container": "webm"}, "audio/webm"),
    "from a browser": ({"container": "webm", "options": {"live": "1"}}, "audio/webm"),
}


@pytest.mark.parametrize("name", SOUNDS)
async def test_a_sound_has_length_and_a_waveform(media: MediaProcessor, name: str) -> None:
    options, mime_type = SOUNDS[name]
    content = sound(**options, level=lambda at: 0.05 if at < 1 else 0.6)
    clip = await look(media, content)
    assert clip.mime_type == mime_type
    assert clip.duration_ms == pytest.approx(2000, abs=80)
    assert (clip.has_video, clip.has_audio) == (False, True)
    assert (clip.width, clip.height, clip.placeholder, clip.renditions) == (None, None, None, {})
    assert clip.waveform is not None
    assert len(clip.waveform) == 100
    assert max(clip.waveform) == 31
    quiet, loud = sorted(clip.waveform[4:46]), sorted(clip.waveform[54:96])
    assert quiet[len(quiet) // 2] <= 6
    assert loud[len(loud) // 2] >= 15


async def test_silence_is_flat_and_a_click_stands_out(media: MediaProcessor) -> None:
    wav = {"container": "wav", "codec": "pcm_s16le"}
    silence = await look(media, sound(**wav, level=lambda _: 0))
    assert silence.waveform == [0] * 100
    click = await look(media, sound(**wav, level=lambda at: float(0.50 <= at < 0.51)))
    assert click.waveform is not None
    assert {place for place, value in enumerate(click.waveform) if value} <= {24, 25, 26}
    assert max(click.waveform) == 31


async def test_a_moment_of_sound_has_a_whole_waveform(media: MediaProcessor) -> None:
    clip = await look(media, sound(seconds=0.1))
    assert clip.duration_ms == pytest.approx(100, abs=60)
    assert clip.waveform is not None
    assert len(clip.waveform) == 100


@pytest.mark.parametrize(
    ("degrees", "size"), [(90, (240, 320)), (180, (320, 240)), (270, (240, 320))]
)
async def test_a_film_stands_upright_however_the_phone_was_held(
    media: MediaProcessor, degrees: int, size: tuple[int, int]
) -> None:
    clip = await look(media, turned(video(), degrees=degrees))
    assert (clip.width, clip.height) == size
    picture = show(clip.renditions["medium"].content)
    assert picture.size == size
    back = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180}.get(
        degrees, Image.Transpose.ROTATE_270
    )
    assert colours(picture.transpose(back)) == UPRIGHT


async def test_the_picture_of_a_film_is_not_its_black_beginning(media: MediaProcessor) -> None:
    clip = await look(media, video(seconds=4, black=1))
    assert colours(show(clip.renditions["small"].content)) == UPRIGHT


async def test_a_film_that_is_black_throughout_is_shown_black(media: MediaProcessor) -> None:
    clip = await look(media, video(black=2))
    assert show(clip.renditions["small"].content).convert("L").getextrema()[1] < 40


async def test_a_large_film_has_small_pictures(media: MediaProcessor) -> None:
    clip = await look(media, video(size=(1920, 1080), seconds=0.4))
    assert (clip.width, clip.height) == (1920, 1080)
    sizes = {name: (made.width, made.height) for name, made in clip.renditions.items()}
    assert sizes == {"medium": (1280, 720), "small": (320, 180)}


async def test_of_a_gigabyte_whose_index_is_at_its_end_little_is_read(
    media: MediaProcessor,
) -> None:
    film = video(audio="aac")
    mdat, moov = film.index(b"mdat") - 4, film.index(b"moov") - 4
    assert mdat < moov
    gap = 1 << 30
    [size] = struct.unpack(">I", film[mdat : mdat + 4])
    film = film[:mdat] + struct.pack(">I", size + gap) + film[mdat + 4 :]
    source = Spread(film[:moov], gap, film[moov:])
    clip = await media.probe_clip(source, format="mp4")
    assert clip.duration_ms == pytest.approx(2000, abs=60)
    assert colours(show(clip.renditions["small"].content)) == UPRIGHT
    assert source.read_bytes < 4_000_000


async def test_a_sound_of_hours_is_listened_to_in_places(media: MediaProcessor) -> None:
    wav = sound(container="wav", codec="pcm_s16le", level=lambda _: 0.5)
    data = wav.index(b"data") + 4
    gap = 600_000_000
    head = wav[:data] + struct.pack("<I", len(wav) - data - 4 + gap) + wav[data + 4 :]
    source = Spread(head, gap)
    clip = await media.probe_clip(source, format="wav")
    assert clip.duration_ms == pytest.approx(gap / 96, rel=0.01)
    assert clip.waveform is not None
    assert len(clip.waveform) == 100
    assert source.read_bytes < 60_000_000


async def test_a_sound_without_end_is_not_followed(media: MediaProcessor) -> None:
    """Two gigabytes of the same frames, without a word of how long it is."""
    frames = sound(
        container="mp3", codec="libmp3lame", options={"id3v2_version": "0", "write_xing": "0"}
    )
    source = Repeated(frames, 2 << 30)
    clip = await media.probe_clip(source, format="mp3")
    assert clip.duration_ms > 3_600_000
    assert clip.waveform is not None
    assert source.read_bytes < 600_000_000


async def test_a_picture_on_the_sleeve_makes_no_film(media: MediaProcessor) -> None:
    cover = camera_photo()
    picture = b"\0image/jpeg\0\x03\0" + cover
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    size = len(frame)
    header = b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    music = sound(container="mp3", codec="libmp3lame", options={"id3v2_version": "0"})
    clip = await look(media, header + frame + music)
    assert (clip.has_video, clip.has_audio) == (False, True)
    assert clip.waveform is not None


BROKEN = {
    "without its index": lambda: video()[:-600],
    "half of it": lambda: video()[: len(video()) // 2],
    "nothing but a name": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "octets": lambda: b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 200,
    "no webm": lambda: b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x82\x84webm" + bytes(5000),
    "no ogg": lambda: b"OggS\x00\x02" + b"\xff" * 5000,
    "no sound": lambda: b"ID3\x03\0\0\0\0\0\0" + b"<html>" * 1000,
    "wav of nothing": lambda: b"RIFF\x24\0\0\0WAVEfmt ",
    "flac of nothing": lambda: b"fLaC" + bytes(3000),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_sound_clip_is_refused(media: MediaProcessor, name: str) -> None:
    with pytest.raises(MediaBroken):
        await look(media, BROKEN[name]())


async def test_what_is_left_of_a_film_is_shown(media: MediaProcessor) -> None:
    film = video(seconds=4, options={"movflags": "faststart"})
    clip = await look(media, film[: len(film) * 2 // 3])
    assert (clip.width, clip.height) == (320, 240)
    assert colours(show(clip.renditions["small"].content)) == UPRIGHT


PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "dash": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
async def test_no_list_of_other_files_is_followed(media: MediaProcessor, name: str) -> None:
    assert detect(PLAYLISTS[name]).file_type == "document"
    for kind in ("mp4", "mov", "webm", "ogg", "mp3", "aac", "wav", "flac", name):
        with pytest.raises(MediaBroken):
            await media.probe_clip(Bytes(PLAYLISTS[name]), format=kind)


async def test_a_film_whose_samples_lie_elsewhere_reads_nothing_else(
    media: MediaProcessor, tmp_path: Path
) -> None:
    """A `dref` that names another file: FFmpeg would follow it, were it asked to. Without the lock of a decoder nor."""
    other = tmp_path / "another person's film.mp4"
    other.write_bytes(video())
    film = _borrow(video(), str(other))
    for options, count in (({}, 0), ({"enable_drefs": "1", "use_absolute_path": "1"}, 50)):
        with av.open(io.BytesIO(film), format="mp4", options=options) as opened:
            assert sum(1 for _ in opened.decode(video=0)) == count
    clip = await look(media, film)
    assert (clip.has_video, clip.width, clip.height) == (True, 320, 240)
    assert (clip.placeholder, clip.renditions) == (None, {})
    answer = probe(io.BytesIO(film), "mp4")
    assert (answer.fields.get("placeholder"), answer.parts) == (None, [])


def _borrow(film: bytes, path: str) -> bytes:
    """The same without a sample of its own; an alias says that they lie in the file at `path`."""
    name = path.encode() + b"\0" * (len(path) % 2)
    # A volume, a file name and levels that say nothing, and the absolute path.
    alias = bytes(150) + struct.pack(">HH", 2, len(name)) + name + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    own = struct.pack(">I4sI", 12, b"url ", 1)
    at = film.index(own)
    grown = bytearray(film.replace(own, entry, 1))
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = grown.rindex(kind, 0, at) - 4
        (size,) = struct.unpack_from(">I", grown, place)
        struct.pack_into(">I", grown, place, size + len(entry) - len(own))
    samples = grown.index(b"mdat")
    (size,) = struct.unpack_from(">I", grown, samples - 4)
    grown[samples + 4 : samples - 4 + size] = bytes(size - 8)
    return bytes(grown)


async def test_each_container_is_read_by_its_own_name(media: MediaProcessor) -> None:
    film = io.BytesIO(video(container="matroska")).getvalue()
    for kind in ("mp4", "ogg", "matroska", "", "hls", "concat"):
        with pytest.raises(MediaBroken):
            await media.probe_clip(Bytes(film), format=kind)
