"""The verdict in words, and as what the json module writes. Only what the replay shows is said."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import numpy as np

from mtlref.audit.compare import Transition
from mtlref.audit.drift import FreeRun
from mtlref.audit.inference.words import plain as inference_plain
from mtlref.audit.inference.words import told, told_search
from mtlref.audit.notices import notices
from mtlref.audit.notices import plain as notices_plain
from mtlref.audit.notices import told as told_notices
from mtlref.audit.precision import ROUNDINGS
from mtlref.audit.readers import Log
from mtlref.audit.readings import SUSPECTED
from mtlref.audit.run import Run
from mtlref.audit.verdict import FEWEST, Diagnosis, Explanation, Verdict
from mtlref.notation import Array
from mtlref.settings import described

WIDTH = 100
"""The width of the report's lines."""

NOT_IN_A_LOG = (
    "the network's own update: whether it descended the weighted gradients, and nothing besides (MTL-1), and "
    "what the heads got ({heads}); the log holds no update"
)
"""What a log of losses, norms and weights cannot show."""


def text(run: Run, verdict: Verdict) -> str:
    """Return the report that is printed."""
    warnings = list(told_notices(notices(run.method, run.log)))
    lines = [*_header(run), "", *_outcome(run, verdict), "", *warnings, *_limits(run, verdict)]
    return "\n".join(_wrapped(line) for line in lines)


def _wrapped(line: str) -> str:
    """Return the line folded at `WIDTH`, its further lines a little deeper."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)) or line


def _header(run: Run) -> Iterator[str]:
    log = run.log
    yield f"{run.method.title} audit of {log.source}"
    for name, value in run.description.items():
        yield f"  {name + ':':<11} {value}"
    yield f"  {'method:':<11} {described(run.method)}"
    for i, line in enumerate(inferred(run)):
        yield f"  {'' if i else 'inferred:':<11} {line}"
    if run.assumed:
        yield f"  {'':<11} not given, so taken at the default: {', '.join(run.assumed)}"
    yield f"  {'log:':<11} {len(log.rows)} rows, tasks {', '.join(log.tasks)}; logged in {_precision(log)}"
    for note in log.notes:
        yield f"  {'':<11} {note}"


def inferred(run: Run) -> list[str]:
    """Return what was inferred, a line each; nothing where nothing was."""
    more = told_search(run.search) if run.search is not None else ()
    return [] if run.inference is None else [*told(run.inference), *more]


def diagnosed(verdict: Verdict) -> list[str]:
    """Return the diagnosis, a line each; nothing where the run agrees."""
    if verdict.diagnosis is None:
        return []
    return [line.removeprefix("Diagnosis: ") for line in _diagnosis(verdict.diagnosis)]


def _precision(log: Log) -> str:
    """Return in what the numbers were logged: one word, or one a kind where the kinds differ."""
    held = (("losses", log.losses), ("norms", log.norms), ("weights", log.weights))
    words = {kind: log.precision[kind].words for kind, values in held if values is not None}
    one = set(words.values())
    return one.pop() if len(one) == 1 else ", ".join(f"{kind} to {word}" for kind, word in words.items())


def _outcome(run: Run, verdict: Verdict) -> Iterator[str]:
    """Say whether the run follows the method, and where it leaves it."""
    if verdict.first is None:
        if not verdict.steps:
            yield f"PASSED: the whole run follows {run.method.title} from its start; no step can be judged by itself."
            yield from _whole_run(run, verdict)
            return
        yield f"PASSED: the weights follow {run.method.title} at every one of {verdict.steps} steps."
        yield f"  largest error    {verdict.worst.error:.2e} (allowed {_allowed(verdict.worst):.2e})"
        yield from _whole_run(run, verdict)
        return
    first, tag = verdict.first, _tag(run, verdict.first)
    at, off = "at the start and " * bool(verdict.wrong_starts), verdict.departures - verdict.wrong_starts
    yield f"FAILED: the weights leave {run.method.title} {at}at {off} of {verdict.steps} steps."
    yield f"  first at         {_where(run, first)}, in the weights ({tag}), task {run.log.tasks[first.task]}"
    yield f"  got              {_numbers(first.got)}"
    yield f"  expected         {_numbers(first.expected)}"
    yield f"  error            {first.error:.2e} (allowed {_allowed(first):.2e})"
    last = len(run.log.rows) - 1
    end, end_row = verdict.run.end, verdict.run.end_row
    when = "at the end" if end_row == last else f"at {run.method.cadence} {run.log.rows[end_row]}"
    yield f"  {when:<17}{_numbers(end)} by the method on the same losses and norms;"
    yield f"                   {_numbers(weights_of(run)[end_row])} in the run"
    if end_row < last and not verdict.run.parted:
        yield "                   beyond it the method itself cannot be evaluated on these losses and norms"
    yield ""
    assert verdict.diagnosis is not None
    yield from _diagnosis(verdict.diagnosis)
    yield f"Derivation: derivations/{run.method.stem}.md"


def _whole_run(run: Run, verdict: Verdict) -> Iterator[str]:
    """Say whether the whole run follows from its start."""
    free, allowed = verdict.run, f"(allowed {verdict.run.allowed:.2e})"
    if free.follows:
        yield f"  from the start   {free.apart:.2e} at most from a replay that is {_corrected(free)} {allowed}"
        for row in free.parted[:1]:
            at = f"{run.method.cadence} {run.log.rows[row]}"
            more = "" if len(free.parted) == 1 else f", and {len(free.parted) - 1} times more"
            yield f"                   it ends before {at}{more}, at a kink that the digits decide:"
            yield "                   what the optimiser remembers of it is in no log"
        return
    yield "FAILED: the whole run does not follow from its start, though each step follows from the one before."
    yield f"  from the start   {free.apart:.2e} from a replay that is {_corrected(free)}"
    at = f"{run.method.cadence} {run.log.rows[free.first]}"
    yield f"                   {allowed}, beyond its allowance from {at} on: steps that are each within theirs add up"


def _corrected(free: FreeRun) -> str:
    """Return how often a replay was set to the log's weights, in words."""
    if not free.kinks:
        return "never corrected"
    return f"corrected at {free.kinks} {'kink' if free.kinks == 1 else 'kinks'} only"


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    """Say which known defects explain the run, and how sure that is."""
    fits, word = diagnosis.explanations, "Diagnosis:"
    if diagnosis.kind == "unknown":
        yield "Diagnosis: unknown. No known defect, and no pair of them, gives these weights."
        return
    if diagnosis.readings:
        yield "Diagnosis: the log holds other numbers than it is taken for."
        yield from [f"  {SUSPECTED[name]}" for name in diagnosis.readings]
        if not fits[0].defects:
            yield f"  So read they follow the method at every one of {fits[0].steps} steps."
            return
        word = "  So read:"
    if diagnosis.kind == "too short":
        fewest = min(fit.steps for fit in fits)
        yield f"{word} the log is too short to tell. {fewest} steps stand behind it; it takes {FEWEST}. Fits:"
    elif diagnosis.kind == "ambiguous":
        yield f"{word} ambiguous. {len(fits)} explanations give these weights equally well:"
    else:
        only = fits[0]
        many = "a known defect" if len(only.defects) == 1 else "two known defects together"
        yield f"{word} identical to {many}, at every one of {only.steps} steps."
    for fit in fits:
        yield from _explanation(fit)


def _explanation(fit: Explanation) -> Iterator[str]:
    yield f"  {fit.name}: largest error {fit.largest:.2e} (allowed {fit.allowance:.2e})"
    for defect in fit.defects:
        yield f"    {defect.name}: the run computes {defect.summary}"


def _limits(run: Run, verdict: Verdict) -> Iterator[str]:
    """Say what the verdict rests on and what it cannot say."""
    if verdict.kinks:
        at = "step lies" if verdict.kinks == 1 else "steps lie"
        yield f"Undecided: {verdict.kinks} {at} so near a kink that the logged digits allow either outcome."
    for row in verdict.restarts:
        yield f"Begins anew: at {run.method.cadence} {run.log.rows[row]} (line {run.log.lines[row]}) a run starts."
    if verdict.unjudged:
        rows = "step lacks" if verdict.unjudged == 1 else "steps lack"
        why = f"{rows} a finite number, or hang on one that the log lacks or prints as 0"
        if verdict.stopped:
            why = f"steps. From the last one judged the method cannot go on: {verdict.stopped}"
        yield f"Not decided: {verdict.unjudged} {why}."
    if verdict.open_defects:
        names = ", ".join(f"{defect.name} [{defect.equation}]" for defect in verdict.open_defects)
        yield f"Not ruled out by this log: {names}."
    yield f"Not judged: {NOT_IN_A_LOG.format(heads=run.method.heads)}."


def plain(run: Run, verdict: Verdict) -> Mapping[str, object]:
    """Return run and verdict as what the json module writes."""
    diagnosis = verdict.diagnosis
    return {
        "log": run.log.source,
        "run": dict(run.description),
        "method": run.method.stem,
        "settings": described(run.method),
        "assumed": list(run.assumed),
        "inferred": inference_plain(run.inference, run.search),
        "tasks": list(run.log.tasks),
        "passed": verdict.passed,
        "steps": verdict.steps,
        "undecided": verdict.kinks,
        "unjudged": verdict.unjudged,
        "stopped": verdict.stopped or None,
        "notes": list(run.log.notes),
        "departures": verdict.departures,
        "begins_late": run.log.late,
        "begins_anew": [int(run.log.rows[row]) for row in verdict.restarts],
        "roundings": ROUNDINGS,
        "first": None if verdict.first is None else _transition(run, verdict.first),
        "worst": _transition(run, verdict.worst),
        "end": _end_plain(run, verdict),
        "whole_run": _whole_run_plain(run, verdict),
        "diagnosis": None if diagnosis is None else _diagnosis_plain(diagnosis),
        "not_ruled_out": [defect.name for defect in verdict.open_defects],
        "warnings": notices_plain(notices(run.method, run.log), run.log),
        "not_judged": NOT_IN_A_LOG.format(heads=run.method.heads),
    }


def _end_plain(run: Run, verdict: Verdict) -> Mapping[str, object]:
    row = verdict.run.end_row
    return {
        "step": int(run.log.rows[row]),
        "expected": verdict.run.end.tolist(),
        "got": weights_of(run)[row].tolist(),
        "apart": verdict.run.apart,
    }


def _whole_run_plain(run: Run, verdict: Verdict) -> Mapping[str, object]:
    free = verdict.run
    return {
        "follows": free.follows,
        "apart": free.apart,
        "allowed": free.allowed,
        "kinks": free.kinks,
        "parted": [int(run.log.rows[row]) for row in free.parted],
        "first": None if free.first is None else int(run.log.rows[free.first]),
    }


def _diagnosis_plain(diagnosis: Diagnosis) -> Mapping[str, object]:
    return {
        "kind": diagnosis.kind,
        "readings": list(diagnosis.readings),
        "explanations": [
            {
                "defects": [{"name": d.name, "equation": d.equation, "summary": d.summary} for d in fit.defects],
                "largest_error": fit.largest,
                "allowance": fit.allowance,
                "steps": fit.steps,
            }
            for fit in diagnosis.explanations
        ],
    }


def _transition(run: Run, transition: Transition) -> Mapping[str, object]:
    return {
        "step": int(run.log.rows[transition.row]),
        "line": int(run.log.lines[transition.row]),
        "equation": _tag(run, transition),
        "task": run.log.tasks[transition.task],
        "got": transition.got.tolist(),
        "expected": transition.expected.tolist(),
        "error": transition.error,
        "allowance": transition.allowance.tolist(),
    }


def _tag(run: Run, transition: Transition) -> str:
    """Return the tag of the equation whose value the log holds at this row: the start's, or the next weights'."""
    tags = run.method.tags
    return run.method.start if transition.row == 0 and run.method.lagged else list(tags.values())[-1]


def _where(run: Run, transition: Transition) -> str:
    row = transition.row
    return f"{run.method.cadence} {run.log.rows[row]} (line {run.log.lines[row]})"


def _allowed(transition: Transition) -> float:
    return float(transition.allowance[transition.task])


def weights_of(run: Run) -> Array:
    """Return the log's weights."""
    assert run.log.weights is not None
    return run.log.weights


def _numbers(values: Array) -> str:
    return "  ".join(np.format_float_positional(x, precision=7, unique=True) for x in values)
