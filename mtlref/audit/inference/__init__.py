"""The inference: which settings of a method would have given a log's weights.

What a log does not say of a method is looked for: closed forms propose settings, from the simplest numbers on, and
the replay decides. Settings *fit* when every step follows from the one before within its allowance, and the whole
run from its start. Of those that fit, the ones that begin as the log begins count alone, where there are any. One is
*recovered*; several are *ambiguous*: this log cannot tell them apart. Where none fits, settings that fit with one
known defect are named, or else the *nearest*, with what they leave over.
"""

from __future__ import annotations

from mtlref.audit.inference.anything import Search, infer_any
from mtlref.audit.inference.fit import Fit, Inference, infer

__all__ = ["Fit", "Inference", "Search", "infer", "infer_any"]
