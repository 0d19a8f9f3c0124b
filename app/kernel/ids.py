"""The kinds of identifiers: all are positive 64-bit integers below 2^53, so that JavaScript keeps them exact."""

from typing import NewType

UserId = NewType("UserId", int)
ChatId = NewType("ChatId", int)
MessageId = NewType("MessageId", int)
SessionId = NewType("SessionId", int)
FileId = NewType("FileId", int)
BlobId = NewType("BlobId", int)
UploadId = NewType("UploadId", int)

MAX_ID = 2**53 - 1
MAX_USER_ID = 10**12 - 1
