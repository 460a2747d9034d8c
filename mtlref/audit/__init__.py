"""The audit: did a training run do what the paper says? It needs the run's log, and nothing else.

run = read_run("run.csv", method="gradnorm", settings={"alpha": 1.5, "lr": 0.025})
verdict = judge(run.method, run.log)
verdict.passed, verdict.first, verdict.diagnosis
"""

from __future__ import annotations

from mtlref.audit.batch import Outcome, audit_many, audit_one, logs_in
from mtlref.audit.inspection import Inspection, inspect_log
from mtlref.audit.mapping import read_map
from mtlref.audit.readers import Log, read_log
from mtlref.audit.recording import Recorder
from mtlref.audit.run import Run, examples, read_run
from mtlref.audit.verdict import Diagnosis, Explanation, Verdict, judge
from mtlref.audit.writers import write_log

__all__ = [
    "Diagnosis",
    "Explanation",
    "Inspection",
    "Log",
    "Outcome",
    "Recorder",
    "Run",
    "Verdict",
    "audit_many",
    "audit_one",
    "examples",
    "inspect_log",
    "judge",
    "logs_in",
    "read_log",
    "read_map",
    "read_run",
    "write_log",
]
