"""Many logs: found in directories, audited one after another or side by side on any executor of concurrent.futures.

for outcome in audit_many(logs_in("runs"), executor=pool, method="gradnorm"):
    outcome.source, outcome.status, outcome.plain
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mtlref.audit import report
from mtlref.audit.charts import charts_in
from mtlref.audit.run import EXAMPLE, read_run
from mtlref.audit.tables import EVENTS, broken, export_files, is_log
from mtlref.audit.verdict import judge
from mtlref.notation import MtlrefError

FOLLOWS, DEPARTS, UNUSABLE = 0, 1, 2
"""What an outcome's status says: as the command's exit status."""

MOST_LOGS = 100_000
"""The most logs that are taken from one directory."""

AHEAD = 64
"""How many logs are handed to an executor before the first of them is asked for."""


@dataclass(frozen=True)
class Outcome:
    """What the audit of one log gave: `text` is the report, or why there is none; `plain` the report for JSON."""

    source: str
    status: int
    text: str
    plain: Mapping[str, Any] | None


def logs_in(source: str | os.PathLike[str]) -> list[str]:
    """Return the logs below a directory, sorted; a directory of event files, downloaded series or charts is one log.

    A file is itself.

    Errors: LogError for a directory without logs, or with too many.
    """
    name = os.fspath(source)
    if name.startswith(EXAMPLE) or not os.path.isdir(name):
        return [name]
    found: list[str] = []
    for folder, below, files in os.walk(name):
        below.sort()
        events = [file for file in files if EVENTS in file.lower()]
        downloads = [os.path.basename(path) for path in export_files(folder) or charts_in(folder)]
        found += [folder] if events or downloads else []
        others = sorted(set(files) - set(events) - set(downloads))
        found += [os.path.join(folder, file) for file in others if is_log(file)]
        if len(found) > MOST_LOGS:
            raise broken(name, f"holds more than {MOST_LOGS} logs")
    if not found:
        raise broken(name, "is a directory without logs")
    return found


def audit_one(source: str, progress: bool | None = False, **options: Any) -> Outcome:
    """Return the outcome of one log; `options` are those of `read_run`. What cannot be judged says why."""
    try:
        run = read_run(source, **options)
        verdict = judge(run.method, run.log, progress)
        said = report.text(run, verdict), report.plain(run, verdict)
    except MtlrefError as error:
        return Outcome(source, UNUSABLE, str(error), {"log": source, "error": str(error)})
    return Outcome(source, FOLLOWS if verdict.passed else DEPARTS, *said)


def audit_many(sources: Iterable[str], *, executor: Executor | None = None, **options: Any) -> Iterator[Outcome]:
    """Yield the outcomes in the order of `sources`, side by side on `executor` if there is one."""
    one = partial(audit_one, **options)
    if executor is None:
        yield from map(one, sources)
        return
    rest = iter(sources)
    waiting: deque[Future[Outcome]] = deque(executor.submit(one, source) for source in islice(rest, AHEAD))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(executor.submit(one, source) for source in islice(rest, 1))


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a line a log, and how many there are of each kind."""
    words = {FOLLOWS: "follows", DEPARTS: "departs", UNUSABLE: "not judged"}
    lines, counts = list[str](), dict.fromkeys(words, 0)
    for outcome in outcomes:
        counts[outcome.status] += 1
        why = f"   {outcome.text}" if outcome.status == UNUSABLE else ""
        lines.append(f"{words[outcome.status]:<10}  {Path(outcome.source).as_posix()}{why}")
    lines.append(", ".join(f"{count} {words[status]}" for status, count in counts.items()))
    return "\n".join(lines)
