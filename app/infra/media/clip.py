"""What a film or a sound is: how long, how large, what it looks and sounds like. Runs in a decoder process alone.

FFmpeg gets an open file and the name of its container, and nothing else: no address, no list of other files, no
container or codec but those named here.
"""

# Pillow and PyAV leave gaps in their types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import array
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, SupportsFloat

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from app.infra.media.pipe import Answer
from app.infra.media.renditions import SIDES, make_renditions

# Loaded when a container is opened, which is behind the lock.
_LOADED = (SubtitleStream,)

# The demuxer's own name for each format of `detect`.
_DEMUXERS = {
    "mp4": "mov,mp4,m4a,3gp,3g2,mj2",
    "mov": "mov,mp4,m4a,3gp,3g2,mj2",
    "webm": "matroska,webm",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
    "wav": "wav",
    "flac": "flac",
}
_VIDEO_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "h263", "theora"}
_AUDIO_CODECS = {
    "aac",
    "mp3",
    "mp3float",
    "opus",
    "vorbis",
    "flac",
    "alac",
    "amrnb",
    "amrwb",
    "speex",
    "libopus",
}
_PCM = {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_alaw", "pcm_mulaw"}
_CODECS = _VIDEO_CODECS | _AUDIO_CODECS | _PCM

# PyAV 18 fails over a title that is not UTF-8 unless it is told not to; 19 does not, and cannot be told.
_READABLE: dict[str, Any] = (
    {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}
)
_BUFFER_BYTES = 65_536
_MAX_STREAMS = 32
_MAX_PIXELS = 40_000_000
_MICROSECONDS = 1_000_000

# Where to look for a frame that shows something, in parts of the whole.
_POSTER_PLACES = (0.1, 0.3, 0.5, 0.0)
# A key frame comes every few seconds; further on it is not worth the time.
_MAX_POSTER_FRAMES = 90
# Of the lightest spot of a frame of 32 x 32: below, all is black.
_BLACK = 40
_GLANCE = (32, 32)
# By how many degrees, against the clock, the frame is to be turned.
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

WAVEFORM_VALUES = 100
WAVEFORM_PEAK = 31
# Longer sounds are listened to in places.
_MAX_HEARD_SECONDS = 600
_GLIMPSE_SECONDS = 0.1
# Containers without an index are read from the beginning for each place.
_MAX_SEEKING_SECONDS = 8
# A frame of sound is about 20 ms.
_BLOCKS_PER_FRAME = 4
_MAX_ERRORS = 100
# Read to its end to learn how long it is, where its head does not say.
_MAX_READ_BYTES = 536_870_912
# Sample formats: the type code of `array`, what silence is, and how far from it the loudest.
_SAMPLES = {
    "u8": ("B", 128, 128),
    "s16": ("h", 0, 32_768),
    "s32": ("i", 0, 2_147_483_648),
    "flt": ("f", 0, 1),
    "dbl": ("d", 0, 1),
}
_SILENCE = 0.001


def probe(file: BinaryIO, format: str) -> Answer:  # noqa: A002 - FFmpeg's word
    with _open(file, format) as container:
        video = _find_video(container)
        audio = next(iter(container.streams.audio), None)
        fields: dict[str, Any] = {"has_video": video is not None, "has_audio": audio is not None}
        if video is not None:
            seconds = _seconds(container, video) or _read_to_the_end(file, container, video)
            fields["duration_ms"] = round(seconds * 1000)
            shown, parts = _show(container, video, seconds)
            return Answer(fields | shown, parts)
        if audio is None:
            raise ValueError("neither pictures nor sound")
        seconds, levels = _listen(file, container, audio)
        fields["duration_ms"] = round(seconds * 1000)
        return Answer(fields | {"waveform": _draw(levels) if levels else None}, [])


def _open(file: BinaryIO, format: str) -> InputContainer:  # noqa: A002 - see above
    demuxer = _DEMUXERS[format]
    return av.open(
        file,
        mode="r",
        format=demuxer.split(",", 1)[0],
        container_options={
            "format_whitelist": demuxer,
            "codec_whitelist": ",".join(sorted(_CODECS)),
            "protocol_whitelist": "none",
            "max_streams": str(_MAX_STREAMS),
            # By arithmetic where there is no index: to read all that lies before would take minutes.
            "fflags": "fastseek",
        },
        buffer_size=_BUFFER_BYTES,
        io_open=_open_nothing,
        **_READABLE,
    )


def _open_nothing(*_: object) -> BinaryIO:
    raise PermissionError


def _find_video(container: InputContainer) -> VideoStream | None:
    """The picture on a record's sleeve is a stream too, of one frame."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _seconds(container: InputContainer, stream: VideoStream | AudioStream) -> float:
    """0: the container does not say."""
    if container.duration is not None and container.duration > 0:
        return container.duration / _MICROSECONDS
    if stream.duration is not None and stream.duration > 0:
        return stream.duration * _to_float(stream.time_base)
    return 0.0


def _to_float(ratio: SupportsFloat | None) -> float:
    """PyAV 18 has fractions, 19 a class of its own."""
    return float(ratio) if ratio is not None else 0.0


def _read_to_the_end(
    file: BinaryIO, container: InputContainer, stream: VideoStream | AudioStream
) -> float:
    """When its last packet ends: browsers record without knowing how long it will be. 0: too much to read."""
    position = file.tell()
    size = file.seek(0, 2)
    file.seek(position)
    if size > _MAX_READ_BYTES:
        return 0.0
    start = end = 0.0
    for number, packet in enumerate(container.demux(stream)):
        if packet.pts is None:
            continue
        unit = _to_float(packet.time_base)
        at = packet.pts * unit
        start = at if not number else min(start, at)
        end = max(end, at + (packet.duration or 0) * unit)
    return max(0.0, end - start)


def _show(
    container: InputContainer, video: VideoStream, seconds: float
) -> tuple[dict[str, Any], list[bytes]]:
    """Its size as shown, and a picture of it where one can be made."""
    codec = video.codec_context
    if not codec or not 0 < codec.width * codec.height <= _MAX_PIXELS:
        return {}, []
    width, height = _shape(video)
    poster = None if codec.name not in _VIDEO_CODECS else _find_poster(container, video, seconds)
    if poster is None:
        return {"width": width, "height": height}, []
    picture, turn = poster
    if turn in {Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270}:
        width, height = height, width
    if turn is not None:
        picture = picture.transpose(turn)
    renditions, placeholder = make_renditions(picture)
    fields = {
        "width": width,
        "height": height,
        "placeholder": placeholder,
        "renditions": [(name, *size) for name, *size, _ in renditions],
    }
    return fields, [encoded for *_, encoded in renditions]


def _shape(video: VideoStream) -> tuple[int, int]:
    """Pixels that are not square are stretched, as players do."""
    width, height = video.codec_context.width, video.codec_context.height
    stretched = round(width * (_to_float(video.sample_aspect_ratio) or 1))
    return (stretched if 0 < stretched <= _MAX_PIXELS // height else width), height


def _find_poster(
    container: InputContainer, video: VideoStream, seconds: float
) -> tuple[Image.Image, Image.Transpose | None] | None:
    video.codec_context.thread_count = 1
    video.codec_context.thread_type = "NONE"
    black = None
    for place in _POSTER_PLACES if seconds else (0.0,):
        frame = _frame_at(container, video, place * seconds)
        if frame is None:
            continue
        poster = (_to_picture(frame, _shape(video)), _TURNS.get(frame.rotation % 360))
        if not _is_black(poster[0]):
            return poster
        black = black or poster
    return black


def _frame_at(container: InputContainer, video: VideoStream, seconds: float) -> VideoFrame | None:
    frame = None
    try:
        container.seek((container.start_time or 0) + round(seconds * _MICROSECONDS))
        for number, frame in enumerate(container.decode(video)):
            is_there = frame.pts is not None and frame.time >= seconds
            if is_there or number >= _MAX_POSTER_FRAMES:
                break
    except av.error.FFmpegError:
        return frame
    return frame


def _to_picture(frame: VideoFrame, shape: tuple[int, int]) -> Image.Image:
    scale = min(1.0, max(SIDES.values()) / max(shape))
    width, height = (max(1, round(length * scale)) for length in shape)
    picture: Image.Image = frame.to_image(width=width, height=height, threads=1)
    return picture


def _is_black(picture: Image.Image) -> bool:
    _, lightest = picture.resize(_GLANCE, Image.Resampling.BOX).convert("L").getextrema()
    return isinstance(lightest, int) and lightest < _BLACK


def _listen(
    file: BinaryIO, container: InputContainer, audio: AudioStream
) -> tuple[float, Sequence[float]]:
    """Seconds, and how loud it is from the beginning to the end, in equal steps; none: that would take too long."""
    if not audio.codec_context or audio.codec_context.name not in _CODECS:
        raise ValueError("unknown codec")
    audio.codec_context.thread_count = 1
    audio.codec_context.thread_type = "NONE"
    seconds = _seconds(container, audio)
    if seconds <= _MAX_HEARD_SECONDS:
        heard, levels = _hear(container, audio, _MAX_HEARD_SECONDS)
        if not levels:
            raise ValueError("nothing to hear")
        if heard < _MAX_HEARD_SECONDS:
            return heard, levels
        container.seek(container.start_time or 0)
        seconds = max(heard, _read_to_the_end(file, container, audio))
    return seconds, _hear_in_places(container, audio, seconds)


def _hear(
    container: InputContainer, audio: AudioStream, seconds: float
) -> tuple[float, Sequence[float]]:
    """From here on, for so long at most."""
    heard = 0.0
    levels: list[float] = []
    for frame in _decode(container, audio):
        heard += frame.samples / max(1, frame.sample_rate)
        levels += _measure(frame)
        if heard >= seconds:
            break
    return heard, levels


def _hear_in_places(
    container: InputContainer, audio: AudioStream, seconds: float
) -> Sequence[float]:
    levels: list[float] = []
    started = time.process_time()
    for place in range(WAVEFORM_VALUES):
        if time.process_time() - started > _MAX_SEEKING_SECONDS:
            return []
        at = seconds * (place + 0.5) / WAVEFORM_VALUES
        try:
            container.seek((container.start_time or 0) + round(at * _MICROSECONDS))
        except av.error.FFmpegError:
            return []
        levels.append(max(_hear(container, audio, _GLIMPSE_SECONDS)[1], default=0.0))
    return levels


def _decode(container: InputContainer, audio: AudioStream) -> Iterator[AudioFrame]:
    """What can be decoded; a few packets that cannot are left out."""
    errors = 0
    for packet in container.demux(audio):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            errors += 1
            if errors > _MAX_ERRORS:
                return


def _measure(frame: AudioFrame) -> Iterator[float]:
    """The loudest sample of each part of the frame, of its first two channels, from 0 to 1."""
    name = frame.format.name
    code, silence, loudest = _SAMPLES[name.removesuffix("p") if frame.format.is_planar else name]
    count = frame.samples if frame.format.is_planar else frame.samples * frame.layout.nb_channels
    channels: list[array.array[Any]] = []
    for plane in frame.planes[:2]:
        samples: array.array[Any] = array.array(code)
        samples.frombytes(memoryview(plane)[: count * samples.itemsize])
        channels.append(samples)
    step = max(1, -(-count // _BLOCKS_PER_FRAME))
    for at in range(0, count, step):
        parts = [samples[at : at + step] for samples in channels]
        level = max(max(max(part) - silence, silence - min(part)) for part in parts) / loudest
        # Not a number is as loud as it gets.
        yield level if level <= 1 else 1.0


def _draw(levels: Sequence[float]) -> list[int]:
    """`WAVEFORM_VALUES` values up to `WAVEFORM_PEAK`, which is the loudest of this sound."""
    peak = max(levels, default=0.0)
    if peak < _SILENCE:
        return [0] * WAVEFORM_VALUES
    values: list[int] = []
    for number in range(WAVEFORM_VALUES):
        start = number * len(levels) // WAVEFORM_VALUES
        end = max(start + 1, (number + 1) * len(levels) // WAVEFORM_VALUES)
        values.append(round(max(levels[start:end]) / peak * WAVEFORM_PEAK))
    return values
