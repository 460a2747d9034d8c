"""Watchdog: somebody else's function, called in a thread of its own, and given up where it does not come back.

One thread serves all calls that are made from one thread, so that what a framework keeps by the thread (its pools,
its gradient mode) is there again at the next call. What the function writes to standard output is kept; the warnings
that it emits are left aside, and are no errors. An interrupt from the keyboard ends the waiting at once, and so does
one that the function raises.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import queue
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of a call: it returned a `value`, raised an `error`, or `hung`; the lines that it `printed`."""

    value: Any = None
    error: BaseException | None = None
    hung: bool = False
    printed: tuple[str, ...] = ()


Work = Callable[[], Any]


class Thread:
    """A daemon thread that does one piece of work at a time, until it is given up."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="mtlref-conformance", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it serves: not after a fork, for one."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        while (work := self._asked.get()) is not None:
            try:
                outcome = Outcome(value=work())
            except BaseException as error:
                outcome = Outcome(error=error)
            self._answered.put(outcome)
            del work, outcome

    def ask(self, work: Work, patience: float) -> Outcome:
        """Return what comes of the work, or within `patience` seconds that it hung."""
        self._asked.put(work)
        try:
            return self._answered.get(timeout=patience)
        except queue.Empty:
            return Outcome(hung=True)

    def end(self) -> None:
        """Let it end, once it has done what it is at."""
        self._asked.put(None)


_threads = threading.local()


def call(function: Callable[..., Any], arguments: tuple[Any, ...], patience: float) -> Outcome:
    """Return what comes of `function(*arguments)` within `patience` seconds. Errors: KeyboardInterrupt."""
    thread: Thread | None = getattr(_threads, "thread", None)
    if thread is None or not thread.alive:
        thread = _threads.thread = Thread()
    context = contextvars.copy_context()
    output = io.StringIO()
    served = False
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(output):
            warnings.simplefilter("ignore")
            outcome = thread.ask(lambda: context.run(function, *arguments), patience)
        served = not outcome.hung
    finally:
        if not served:
            thread.end()
            _threads.thread = None
    if isinstance(outcome.error, KeyboardInterrupt):
        raise outcome.error
    return replace(outcome, printed=tuple(output.getvalue().splitlines()))
