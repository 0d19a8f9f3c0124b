"""Wire models of files."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

ThumbnailSize = Literal["small", "medium"]
Placeholder = Annotated[str | None, Field(description="A thumbhash, in base64.")]


class Thumbnail(BaseModel):
    """A smaller picture of it, as WebP: `small` fits 320 pixels, `medium` 1280."""

    size: ThumbnailSize
    url: str
    width: int
    height: int


class File(BaseModel):
    """What was uploaded. Members that do not apply, or are not known yet, are absent."""

    id: int
    file_type: Literal["photo", "video", "audio", "voice", "document"]
    filename: Annotated[str, Field(description="Made by the server.")]
    original_name: Annotated[str, Field(description="As it was given, fit to be shown.")]
    url: str
    size: Annotated[int, Field(description="Of the bytes served.")]
    mime_type: str
    sha256: Annotated[str, Field(description="Of the bytes served.", pattern="^[0-9a-f]{64}$")]
    width: int = Field(default_factory=int)
    height: int = Field(default_factory=int)
    duration: Annotated[float, Field(description="In seconds.")] = Field(default_factory=float)
    thumbnail_url: str = Field(default_factory=str)
    thumbnails: list[Thumbnail] = Field(default_factory=list[Thumbnail])
    placeholder: Annotated[str, Field(description="A thumbhash, in base64.")] = Field(
        default_factory=str
    )
    waveform: Annotated[list[int], Field(description="100 values from 0 to 31.")] = Field(
        default_factory=list[int]
    )
    is_processing: Annotated[
        bool, Field(description="What is in it is not known yet; messages that show it will tell.")
    ] = Field(default_factory=bool)


class PhotoOutline(BaseModel):
    """Of a photo that I may not read yet."""

    width: int
    height: int
    placeholder: Placeholder


class Photo(BaseModel):
    """Of a person or a chat."""

    file_id: int
    url: str
    thumbnail_url: Annotated[str, Field(description="Of the small size, at most 320 pixels.")]
    width: int
    height: int
    placeholder: Placeholder
