"""The checks, one module a method: `PLAN`, what they are put to, and `CHECKS`, in tag order."""

from __future__ import annotations

from importlib import import_module

from mtlref.conformance.check import Check
from mtlref.conformance.strategies import Plan


def of(stem: str, live: bool = False) -> tuple[Plan, tuple[Check, ...]]:
    """Return the plan and the checks of a method, with those of live runs if there are such."""
    module = import_module(f"mtlref.conformance.checks.{stem}")
    plan: Plan = module.PLAN
    checks: tuple[Check, ...] = module.CHECKS
    if live:
        checks += import_module("mtlref.conformance.checks.live").CHECKS
    return plan, checks
