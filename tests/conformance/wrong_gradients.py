"""The wrong implementations of PCGrad and PE-LTR together."""

from __future__ import annotations

from tests.conformance import wrong_pcgrad, wrong_pe_ltr

WRONG = [*wrong_pcgrad.WRONG, *wrong_pe_ltr.WRONG]
"""All of them."""
