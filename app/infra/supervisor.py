"""The process above a worker: uvicorn's supervisor, when there are several workers.

Measured with uvicorn 0.54: a supervisor whose workers cannot start ends with status 0, and workers
whose supervisor was killed go on serving. Neither helps an operator.
"""

import asyncio
import multiprocessing
import os
import signal
import sys


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
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(parent.sentinel, stop)


def is_launched() -> bool:
    """Whether `python -m app` runs this process (in its workers the main module has another name)."""
    modules = (sys.modules.get(name) for name in ("__main__", "__mp_main__"))
    specs = (getattr(module, "__spec__", None) for module in modules)
    return any(spec is not None and spec.name == "app.__main__" for spec in specs)
