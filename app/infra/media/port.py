"""What the server learns of photos, films and sounds, and what can be wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.kernel.problems import Unavailable

# A larger one is no photo, whatever it begins with.
MAX_PHOTO_BYTES: Final = 67_108_864


class MediaSource(Protocol):
    """The bytes of a file, wherever they lie and however they are sealed there."""

    @property
    def size(self) -> int: ...

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on, fewer only at the end."""
        ...


class MediaError(Exception):
    """The file is nothing that can be shown."""


class MediaBroken(MediaError):  # noqa: N818 - says what is found, not what was done
    """Not a sound picture, film or sound, or one that breaks its decoder."""


class MediaTooLarge(MediaError):  # noqa: N818 - see above
    """A picture of more than 40 megapixels, an animation of as many in all, or too many bytes for a photo."""


class MediaTimeout(MediaError):  # noqa: N818 - see above
    """Its decoder used up the processor's time that a file may take."""


class MediaBusy(Unavailable):
    code = "media_busy"
    title = "Photos and films cannot be decoded at this moment, try again"


@dataclass(frozen=True, slots=True)
class Rendition:
    """A WebP picture."""

    content: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Photo:
    """`content` is the picture turned upright and encoded anew, in sRGB and without any metadata: in its own
    format, an animation as WebP. `renditions` are named `small` (fits 320 pixels) and `medium` (fits 1280);
    `placeholder` is a ThumbHash in base64.
    """

    content: bytes
    mime_type: str
    extension: str
    width: int
    height: int
    renditions: Mapping[str, Rendition]
    placeholder: str


@dataclass(frozen=True, slots=True)
class Clip:
    """`duration_ms` 0: it does not say, and is too long to be read to its end. `width` and `height` as shown,
    turned upright. `renditions` and `placeholder` are of a frame near the beginning that is not black, where
    one can be decoded. `waveform`, of sound without pictures: 100 values from 0 to 31.
    """

    mime_type: str
    duration_ms: int
    has_video: bool
    has_audio: bool
    width: int | None = None
    height: int | None = None
    renditions: Mapping[str, Rendition] = field(default_factory=dict[str, Rendition])
    placeholder: str | None = None
    waveform: Sequence[int] | None = None
