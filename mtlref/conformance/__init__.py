"""The conformance kit: does an implementation mean what the specification means, and if not, what does it mean?

    from mtlref.conformance import Implementation, check_implementation

    impl = Implementation("gradnorm", name="mine", step=step)      # step(problem, state) -> {"w_next": …}
    for result in check_implementation(impl):
        print(result.status, result.name, result.message)

The problems are the golden vectors and others that are the same on every day. `MTLREF_DIG=500` has Hypothesis draw
five hundred of each kind at random (`pip install 'mtlref[test]'`).
"""

from __future__ import annotations

from mtlref.conformance.check import Skipped
from mtlref.conformance.diagnosis import Diagnosis
from mtlref.conformance.implementation import AdapterError, Implementation
from mtlref.conformance.problem import Problem, Run
from mtlref.conformance.runner import (
    CheckResult,
    ConformanceError,
    check_implementation,
    conformance_checks,
    parametrize_with_checks,
)
from mtlref.conformance.trial import Departure

__all__ = [
    "AdapterError",
    "CheckResult",
    "ConformanceError",
    "Departure",
    "Diagnosis",
    "Implementation",
    "Problem",
    "Run",
    "Skipped",
    "check_implementation",
    "conformance_checks",
    "parametrize_with_checks",
]
