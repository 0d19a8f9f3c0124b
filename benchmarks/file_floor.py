"""The bare floor for files: Starlette's own FileResponse, and a body that is written to a file as it comes.

What the messenger does beside this (permissions, encryption, hashing, looking at types) is measured
as a ratio to it.

    python -m benchmarks.file_floor PORT DIRECTORY
"""

import asyncio
import os
import secrets
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route


def create_app(directory: Path) -> Starlette:
    async def download(request: Request) -> Response:
        return FileResponse(directory / request.path_params["name"])

    async def upload(request: Request) -> Response:
        """Durable when it is answered, as ours are."""
        with (directory / secrets.token_hex(8)).open("wb", buffering=0) as file:
            async for chunk in request.stream():
                if chunk:
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(os.fsync, file.fileno())
        return Response(status_code=201)

    return Starlette(
        routes=[
            Route("/ready", lambda _: Response(status_code=204)),
            Route("/files/{name}", download),
            Route("/files", upload, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(
        create_app(Path(sys.argv[2])),
        port=int(sys.argv[1]),
        access_log=False,
        log_level="warning",
    )
