"""Wire models of resumable uploads, beside what tus says in headers."""

from typing import Literal

from pydantic import BaseModel, Field

from app.features.files.schemas import File
from app.transport.http.fields import Rfc3339


class UploadStanding(BaseModel):
    """`length` is null until it is told. `file` is there as long as the file is; `failure` is the `code` of
    the problem by which the upload has ended.
    """

    state: Literal["receiving", "finishing", "finished", "failed"]
    offset: int = Field(ge=0)
    length: int | None = Field(ge=0)
    expires_at: Rfc3339
    failure: str = Field(default_factory=str)
    file: File = Field(default_factory=File.model_construct)
