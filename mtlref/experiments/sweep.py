"""A sweep: all arms of an experiment for all seeds, on any executor, with every finished run kept.

    with workers(jobs=2) as executor:
        runs = sweep(experiment, seeds=5, folder="results", executor=executor)

The executor is any `concurrent.futures.Executor`: processes of this machine, or those of a Dask cluster,

    client = distributed.Client("scheduler:8786")
    runs = sweep(experiment, seeds=5, folder="results", executor=client.get_executor())

Each run is written to the folder as soon as it is finished, in one step that happens or does not, so an interruption
loses only what is under way. A sweep into the same folder goes on where the last one ended. It has to be the same
experiment, with the same settings and versions; with others it is refused, for numbers that do not belong together
should not stand in one table.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mtlref
from mtlref.audit.writers import write_log
from mtlref.experiments.study import Experiment, Log, Run, executed
from mtlref.notation import MtlrefError, count
from mtlref.progress import track

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What tells the linear algebra how many threads to use."""

FIRST = 0
"""The seed whose runs are logged."""


class OtherSettingsError(MtlrefError):
    """A folder holds the runs of other settings."""


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Give an executor of `jobs` processes, each of which computes with a single thread.

    They are started anew, so that the number of threads holds and one job computes what many do.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count("jobs", jobs), context, initializer=_follow) as executor:
            yield executor
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _follow() -> None:
    """Leave an interruption from the keyboard to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def sweep(
    experiment: Experiment, seeds: int, folder: str | os.PathLike[str], executor: Executor, shown: bool | None = None
) -> list[Run]:
    """Carry out the runs that the folder does not hold, and return all: the seeds of the first arm, of the second, …

    `shown`: whether progress is shown, by default on a terminal. Errors: OtherSettingsError; MissingExtraError;
    MtlrefError for a run that fails, for a folder that cannot be written to, and for an interruption.
    """
    target = Path(folder)
    wanted = [(arm, seed) for arm in experiment.arms for seed in range(count("seeds", seeds))]
    experiment.needs()
    try:
        (target / "runs").mkdir(parents=True, exist_ok=True)
        (target / "logs").mkdir(exist_ok=True)
        _claim(experiment, target / "settings.json")
        missing = [(arm, seed) for arm, seed in wanted if not _path(target, arm, seed).exists()]
        missing.sort(key=lambda run: run[1])
        futures = {executor.submit(executed, experiment, arm, seed, seed == FIRST) for arm, seed in missing}
        _collect(experiment, target, futures, len(wanted), shown)
        return [Run.read(_path(target, arm, seed).read_text(encoding="utf-8")) for arm, seed in wanted]
    except OSError as error:
        raise MtlrefError(f"out = {str(folder)!r} cannot be used: {error}", argument="out") from error


def _collect(
    experiment: Experiment,
    target: Path,
    futures: set[Future[tuple[Run, Log | None]]],
    wanted: int,
    shown: bool | None,
) -> None:
    """Keep every run as it is finished. After an error or an interruption, keep also what was under way."""
    kept: set[Future[tuple[Run, Log | None]]] = set()
    try:
        for future in track(as_completed(futures), len(futures), f"{experiment.name}: run", shown):
            _keep(target, *future.result())
            kept.add(future)
    except BaseException as error:
        for future in futures:
            future.cancel()
        for future in futures - kept:
            if not future.cancelled() and future.exception() is None:
                _keep(target, *future.result())
        if not isinstance(error, KeyboardInterrupt | BrokenExecutor):
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else "a worker ended before its run did"
        done = len(list((target / "runs").glob("*.json")))
        message = f"{what}: {done} of {wanted} runs are kept in {target}; the same command goes on from there"
        raise MtlrefError(message) from error


def _claim(experiment: Experiment, path: Path) -> None:
    """Write whose runs the folder holds, or see that they are this experiment's."""
    mine = {"experiment": experiment.name, "settings": experiment.plain(), "made_with": versions()}
    if not path.exists():
        replace(path, json.dumps(mine, indent=2) + "\n")
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OtherSettingsError(f"{path} is not a sweep's: {error}; give another --out", argument="out") from error
    if theirs != mine:
        differ = sorted(key for key in _flat(mine).keys() | _flat(theirs).keys() if differs(key, mine, theirs))
        message = f"{path.parent} holds runs with another {', '.join(differ)}; give another --out"
        raise OtherSettingsError(message, argument="out", value=differ)


def differs(key: str, mine: Any, theirs: Any) -> bool:
    """Return whether two settings files differ at a key."""
    return bool(_flat(mine).get(key) != _flat(theirs).get(key))


def _flat(document: Any) -> dict[str, Any]:
    """Return the leaves of a settings file by their own names."""
    if not isinstance(document, dict):
        return {"settings.json": document}
    return {
        name: value
        for key, part in document.items()
        for name, value in (part.items() if isinstance(part, dict) else [(key, part)])
    }


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    return {"mtlref": mtlref.__version__, "numpy": np.__version__}


def _keep(target: Path, run: Run, log: Log | None) -> None:
    """Write a finished run, its log first."""
    if log is not None:
        write_log(target / "logs" / f"{stem(run.arm, run.seed)}.csv", log.columns, log.side)
    replace(_path(target, run.arm, run.seed), run.text())


def _path(target: Path, arm: str, seed: int) -> Path:
    """Return where a run is kept."""
    return target / "runs" / f"{stem(arm, seed)}.json"


def stem(arm: str, seed: int) -> str:
    """Return the name of a run's files."""
    plain = "".join(c if c.isalnum() or c in "-.=" else "_" for c in arm)
    return f"{plain}-seed-{seed}"


def replace(path: Path, text: str) -> None:
    """Write a file in one step: whoever looks sees the old one or the new one, and never a part."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
