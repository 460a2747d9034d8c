"""Digging: cases that Hypothesis draws at random, for whoever searches longer than the fixed cases do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mtlref.conformance.problem import Case
from mtlref.conformance.strategies import LIVE_TASKS, Kind, Plan, Shape, decided, make, make_live, method_of, sizes
from mtlref.notation import MissingExtraError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from mtlref.conformance.implementation import Implementation

DIG = "MTLREF_DIG"
"""The environment variable that makes Hypothesis draw the cases, at random, and that many of each kind."""


def cases(plan: Plan, impl: Implementation, kind: Kind) -> SearchStrategy[Any]:
    """Return the strategy of the cases that `plan` wants for `impl`."""
    from hypothesis import strategies as st

    if plan.make is not None:
        return own_cases(plan, impl)
    if plan.live or kind == "live":
        return live_cases(plan, impl, kind)
    shapes = st.builds(
        Shape,
        settings=st.sampled_from(plan.settings),
        K=st.sampled_from(sizes(plan, impl)),
        D=st.sampled_from(plan.dimensions),
        gradients=st.sampled_from(plan.gradients),
        losses=st.sampled_from(plan.losses),
        before=st.integers(0, 0 if kind == "run" else 3),
    )
    return st.builds(
        lambda shape, seed: make(method_of(plan, impl, shape.settings, shape.K), shape, seed, kind),
        shapes,
        st.integers(0, 2**32 - 1),
    ).filter(lambda case: case is not None and decided(plan, impl, case))


def live_cases(plan: Plan, impl: Implementation, kind: Kind) -> SearchStrategy[Any]:
    """Return the strategy of the live cases."""
    from hypothesis import strategies as st

    drawn = st.builds(
        lambda settings, K, seed: make_live(method_of(plan, impl, settings, K), K, seed, kind, impl.layer),
        st.sampled_from(plan.settings),
        st.sampled_from([K for K in sizes(plan, impl) if K in LIVE_TASKS]),
        st.integers(0, 2**32 - 1),
    )
    return drawn.filter(lambda case: case is not None)


def own_cases(plan: Plan, impl: Implementation) -> SearchStrategy[Any]:
    """Return the strategy of the cases that a method makes itself."""
    from hypothesis import strategies as st

    make = plan.make
    assert make is not None
    drawn = st.builds(
        lambda settings, K, seed: make(method_of(plan, impl, settings, K), K, seed, ""),
        st.sampled_from(plan.settings),
        st.sampled_from(sizes(plan, impl)),
        st.integers(0, 2**32 - 1),
    )
    return drawn.filter(lambda case: case is not None and decided(plan, impl, case))


def draw(strategy: SearchStrategy[Case], number: int, label: str) -> tuple[Case, ...]:
    """Return cases that Hypothesis draws at random. Errors: MissingExtraError."""
    hypothesis = extra()
    found: list[Case] = []

    settings = hypothesis.settings(
        max_examples=number,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def collect(case: Case) -> None:
        found.append(replace(case, label=f"{label} {len(found)}"))

    settings(hypothesis.given(strategy)(collect))()
    return tuple(found)


def extra() -> Any:
    """Return the module hypothesis. Errors: MissingExtraError."""
    try:
        import hypothesis
    except ImportError as error:
        message = f"{DIG} has Hypothesis draw the problems: pip install 'mtlref[test]'"
        raise MissingExtraError(message) from error
    return hypothesis
