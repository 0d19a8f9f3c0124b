"""Looks into photos, video and sound, in processes of their own: hostile bytes are never decoded in the server.

Two kinds of process, so that a film of an hour holds no photo up. What they give back is checked like any
input: one that was taken over may say anything.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from app.infra.media.detect import Detected, detect
from app.infra.media.pool import DecoderPool
from app.infra.media.port import (
    MAX_PHOTO_BYTES,
    Clip,
    MediaBroken,
    MediaSource,
    MediaTooLarge,
    Photo,
    Rendition,
)

_PHOTO_SECONDS = 5
_CLIP_SECONDS = 20
# Where the container's name is not that of its type.
_CLIP_TYPES = {
    ("mov", "video"): "video/quicktime",
    ("mov", "audio"): "audio/mp4",
    ("mp3", "audio"): "audio/mpeg",
}

_Pixels = Annotated[int, Field(ge=1, le=40_000_000)]
_Placeholder = Annotated[str, Field(pattern="^[A-Za-z0-9+/]{4,64}={0,2}$")]
_Renditions = Annotated[
    list[tuple[Literal["small", "medium"], _Pixels, _Pixels]], Field(max_length=2)
]


class _PhotoFields(BaseModel):
    width: _Pixels
    height: _Pixels
    placeholder: _Placeholder
    renditions: _Renditions


class _ClipFields(BaseModel):
    duration_ms: int = Field(ge=0, le=10**12)
    has_video: bool
    has_audio: bool
    width: _Pixels | None = None
    height: _Pixels | None = None
    placeholder: _Placeholder | None = None
    renditions: _Renditions = []
    waveform: (
        Annotated[list[Annotated[int, Field(ge=0, le=31)]], Field(min_length=100, max_length=100)]
        | None
    ) = None


class MediaProcessor:
    """Has an owner that closes it; nothing runs before the first call."""

    def __init__(self, *, processes: int = 1) -> None:
        """`processes`: how many of each kind."""
        self._photos = DecoderPool("photo_process", processes=processes, cpu_seconds=_PHOTO_SECONDS)
        self._clips = DecoderPool("clip_process", processes=processes, cpu_seconds=_CLIP_SECONDS)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return self._photos.pids + self._clips.pids

    async def process_photo(
        self,
        source: MediaSource,
        *,
        format: str,  # noqa: A002 - a decoder's word
        name: str = "",
    ) -> Photo:
        """`format` is that of `detect`. `name`: the same whenever this file is tried again, "" if it never is.

        Raises:
            MediaBroken, MediaTooLarge, MediaTimeout
            MediaBusy: media_busy
        """
        if source.size > MAX_PHOTO_BYTES:
            raise MediaTooLarge
        result = await self._photos.run(source, format=format, name=name)
        try:
            fields = _PhotoFields.model_validate(result.fields)
        except ValidationError as error:
            raise MediaBroken from error
        content, *renditions = result.parts or [b""]
        detected = _require_photo(content)
        return Photo(
            content=content,
            mime_type=detected.mime_type,
            extension=detected.extension,
            width=fields.width,
            height=fields.height,
            renditions=_pair(fields.renditions, renditions),
            placeholder=fields.placeholder,
        )

    async def probe_clip(
        self,
        source: MediaSource,
        *,
        format: str,  # noqa: A002 - see above
        name: str = "",
    ) -> Clip:
        """`format` is that of `detect`. `name`: as above.

        Raises:
            MediaBroken, MediaTimeout
            MediaBusy: media_busy
        """
        result = await self._clips.run(source, format=format, name=name)
        try:
            fields = _ClipFields.model_validate(result.fields)
        except ValidationError as error:
            raise MediaBroken from error
        return Clip(
            mime_type=_clip_type(format, has_video=fields.has_video),
            duration_ms=fields.duration_ms,
            has_video=fields.has_video,
            has_audio=fields.has_audio,
            width=fields.width,
            height=fields.height,
            renditions=_pair(fields.renditions, result.parts),
            placeholder=fields.placeholder,
            waveform=fields.waveform,
        )

    async def close(self) -> None:
        """End all processes, whatever they are at."""
        await self._photos.close()
        await self._clips.close()


def _require_photo(content: bytes) -> Detected:
    detected = detect(content)
    if detected.file_type != "photo":
        raise MediaBroken
    return detected


def _pair(
    named: Sequence[tuple[str, int, int]], contents: Sequence[bytes]
) -> Mapping[str, Rendition]:
    if len(named) != len(contents) or any(
        _require_photo(content).format != "WEBP" for content in contents
    ):
        raise MediaBroken
    return {
        name: Rendition(content, width, height)
        for (name, width, height), content in zip(named, contents, strict=True)
    }


def _clip_type(format: str, *, has_video: bool) -> str:  # noqa: A002 - see above
    kind = "video" if has_video else "audio"
    return _CLIP_TYPES.get((format, kind)) or f"{kind}/{format}"
