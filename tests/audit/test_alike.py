"""Variants that leave the same numbers: held against whole replays of each, by the methods themselves."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.audit.alike import Alike
from mtlref.audit.compare import compared
from mtlref.audit.run import readable
from mtlref.contract import weights_of
from mtlref.defects import DEFECTS, variant
from mtlref.notation import MtlrefError
from tests.audit import loops

K, N = 3, 90

METHODS = {
    "equal": mtlref.EqualWeights(),
    "gradnorm": mtlref.GradNorm(lr=0.01),
    "uncertainty": mtlref.UncertaintyWeighting(lr=0.02),
    "dwa": mtlref.DWA(),
    "cov": mtlref.CoVWeighting(),
    "cov, decaying": mtlref.CoVWeighting(decay=0.9),
}


def trajectory(method, log):
    """What a run of the method on the log decides and uses, step by step, by the method alone."""
    state, found = method.init(K), []
    with np.errstate(all="ignore"):
        for at in range(N):
            try:
                state = method.resumed(state, log.weights[at]) if method.lagged else state
                out = method.step(state, log.losses[at], np.diag(log.norms[at]) if log.norms is not None else None)
            except MtlrefError:
                return None
            found.append((*out.weights, *weights_of(out.state)))
            state = out.state
    return np.array(found)


def log_of(tmp_path, name, flat=False):
    rng = np.random.default_rng(0)
    losses, norms = loops.falling(rng, N, K)
    norms = np.ones_like(norms) if flat else norms
    weights = rng.uniform(0.5, 1.5, (N, K))
    stem = name.split(",")[0]
    return readable(loops.logged(tmp_path, stem, losses, weights, norms=norms), METHODS[name])


def watched(method, log, variants):
    watch = Alike(variants)
    for _ in compared(method, log, watch=watch):
        pass
    return watch.left


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_those_that_stay_are_those_whose_own_run_is_the_method_s(tmp_path, name, flat):
    method, log = METHODS[name], log_of(tmp_path, name, flat)
    variants = {d.name: variant(method, d) for d in DEFECTS[method.stem]}
    own = trajectory(method, log)
    same = {n for n, v in variants.items() if (t := trajectory(v, log)) is not None and np.array_equal(t, own)}
    left = watched(method, log, variants)
    assert left == same
    if method.stem == "gradnorm" and flat:
        assert "SignOnly" in left  # norms of 1: the slope without its factor is the slope


def test_a_variant_that_differs_at_the_last_row_alone_is_dropped(tmp_path):
    log, method = log_of(tmp_path, "gradnorm", flat=True), METHODS["gradnorm"]
    defect = next(d for d in DEFECTS["gradnorm"] if d.name == "SignOnly")
    variants = {"SignOnly": variant(method, defect)}
    log.norms[-1] = 2.0  # the last row is not judged: its step would be the next row's
    assert watched(method, log, variants) == {"SignOnly"}
    log.norms[-2] = 2.0
    assert watched(method, log, variants) == set()


def test_past_a_gap_nothing_is_known_to_be_alike(tmp_path):
    log, method = log_of(tmp_path, "gradnorm"), METHODS["gradnorm"]
    variants = {d.name: variant(method, d) for d in DEFECTS["gradnorm"]}
    assert watched(method, log, variants)
    log.losses[40, 1] = np.nan
    assert watched(method, log, variants) == set()


def test_a_method_that_is_not_taken_many_rows_at_once_leaves_none(tmp_path):
    rng = np.random.default_rng(1)
    J = rng.normal(size=(N, 2, 4))
    losses = rng.uniform(1, 2, (N, 2))
    log = loops.logged(tmp_path, "pcgrad", losses, np.ones((N, 2)), gram=J @ J.transpose(0, 2, 1))
    method = mtlref.PCGrad()
    assert watched(method, log, {d.name: variant(method, d) for d in DEFECTS["pcgrad"]}) == set()
