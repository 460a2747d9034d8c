"""A question to a process of its own, with a limit of time and of memory."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
from collections.abc import Callable
from typing import Any

SECONDS, MEMORY = 60, 3 * 2**30
"""What a mutant may take: one that takes more is told by that."""


def forked(ask: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> Any:
    """Return what `ask` answers in a process of its own, or that it took too much."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            answer = ask(*arguments)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"[:300]
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], seconds)[0]
    if not ready:
        os.kill(child, signal.SIGKILL)
    data = b"".join(iter(lambda: os.read(reader, 2**16), b"")) if ready else b""
    os.close(reader)
    os.waitpid(child, 0)
    return pickle.loads(data) if data else "no end" if not ready else "crash"
