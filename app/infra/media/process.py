"""A decoder process: one job after the other, until its server is gone or ends it.

Started by `decoder.py` as `python -m app.infra.media.photo_process` or `clip_process`; its pipe is its input.
"""

import gc
import io
import signal
import socket
import sys
from collections.abc import Callable
from typing import BinaryIO

from app.infra.media.lockdown import die_with, lock_in
from app.infra.media.pipe import BROKEN, TOO_LARGE, Answer, Job, Pipe, SourceFile, TooLarge
from app.infra.memory import find_trim

_BUFFER_BYTES = 65_536


def serve(handle: Callable[[BinaryIO, str], Answer], *, niceness: int) -> None:
    """`handle` gets the file of a job and its format; whatever it raises, the file is broken."""
    die_with(int(sys.argv[1]))
    # A terminal or a supervisor tells all processes at once; the server tells this one when it is time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trim = find_trim()
    pipe = Pipe(socket.socket(fileno=0))
    try:
        pipe.say_ready(is_locked=lock_in(niceness))
        while True:
            _take(pipe, pipe.next_job(), handle)
            # A decoder that rests holds nothing of what it saw.
            gc.collect()
            if trim is not None:
                trim(0)
    except EOFError:
        sys.exit(0)


def _take(pipe: Pipe, job: Job, handle: Callable[[BinaryIO, str], Answer]) -> None:
    # The kernel ends this process when a job has used up its time, whatever it is in the middle of.
    signal.setitimer(signal.ITIMER_PROF, job.cpu_seconds)
    file = io.BufferedReader(SourceFile(pipe, job.size), _BUFFER_BYTES)
    try:
        answer = handle(file, job.format)
    except TooLarge:
        pipe.refuse(TOO_LARGE)
    except EOFError:
        # Of the pipe, and of libraries: the next word over the pipe tells which.
        pipe.refuse(BROKEN)
    except Exception:  # noqa: BLE001 - an edge: hostile bytes make libraries raise anything
        pipe.refuse(BROKEN)
    else:
        pipe.answer(answer)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
