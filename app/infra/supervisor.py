"""The process above a worker: uvicorn's supervisor, when there are several workers.

Measured with uvicorn 0.54: a supervisor whose workers cannot start ends with status 0, and workers
whose supervisor was killed go on serving. Neither helps an operator.
"""

import asyncio
import multiprocessing
import os
import signal

_LAUNCHED = "MESSENGER_LAUNCHED"


def fail_supervisor() -> None:
    """End the supervisor with a failure status, by the one usual signal that uvicorn leaves alone.

    The other workers notice by `watch_supervisor`. Does nothing where there is no supervisor.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and os.getppid() == parent.pid:
        os.kill(parent.pid, signal.SIGALRM)


def watch_supervisor() -> None:
    """Stop this worker gracefully when its supervisor dies; call it on the event loop."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(parent.sentinel)
        stop_server()

    loop.add_reader(parent.sentinel, stop)


def stop_server() -> None:
    """Stop this process gracefully, as an operator would."""
    signal.raise_signal(signal.SIGTERM)


def mark_launched() -> None:
    """Tell this process and the workers that it will start that `python -m app` runs them."""
    os.environ[_LAUNCHED] = "1"  # noqa: TID251 - no setting: the one thing that spawned workers inherit


def is_launched() -> bool:
    """Whether `python -m app` runs this process."""
    return _LAUNCHED in os.environ  # noqa: TID251 - see `mark_launched`
