"""One processor for the tests that only ask it."""

from collections.abc import AsyncIterator

import pytest

from app.infra.media.processor import MediaProcessor


@pytest.fixture(scope="module")
async def media(anyio_backend: str) -> AsyncIterator[MediaProcessor]:
    processor = MediaProcessor()
    yield processor
    await processor.close()
