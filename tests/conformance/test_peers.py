"""The claims of derivations/bugs.md about other packages, each reproduced; skipped where a package is absent."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mtlref import DomainError, GradNorm, PCGrad
from mtlref.conformance import Problem, check_implementation, peers
from mtlref.conformance.checks import of

VERSIONS = {"gradnorm-pytorch": "0.2.3", "LibMTL": "1.1.5", "torchjd": "0.18.0", "conflictfree": "0.1.8"}
"""The versions that the claims are about."""


def peer(name):
    """The peer of that name, if it and what it needs are here."""
    pytest.importorskip("torch", reason="PyTorch is an extra")
    [found] = [one for one in peers.PEERS if one.name == name]
    if found.installed() != VERSIONS[found.package]:
        pytest.skip(f"{found.package} {VERSIONS[found.package]} is not installed")
    return found


def row_of(name):
    found = peer(name)
    try:
        of(found.method)
    except ModuleNotFoundError:
        pytest.skip(f"there are no checks of {found.method}")
    return peers.row(found)


# THE TABLE


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    absent = peers.Peer("Nobody's GradNorm", "no-such-package", "gradnorm", "gradnorm_pytorch", "weighter")
    monkeypatch.setattr(peers, "PEERS", (absent,))
    assert peers.run() == [peers.Row("Nobody's GradNorm", "", "gradnorm", "not installed")]


def test_a_peer_that_cannot_be_imported_is_unusable(monkeypatch):
    broken = peers.Peer("Broken", "numpy", "gradnorm", "no_such_adapter", "weighter")
    monkeypatch.setattr(peers, "PEERS", (broken,))
    [row] = peers.run(["broken"])
    assert row.status == "unusable"
    assert "no_such_adapter" in row.diagnosis


def test_names_are_of_peers_or_packages():
    assert [p.package for p in peers.chosen(["libmtl", "TorchJD UW"])] == ["LibMTL"] * 5 + ["torchjd"]
    with pytest.raises(DomainError, match="'libmlt' is no peer; there are: gradnorm-pytorch, "):
        peers.run(["libmlt"])


@pytest.mark.parametrize(
    "name",
    ["LibMTL UW", "LibMTL DWA", "LibMTL EW", "TorchJD PCGrad", "TorchJD UW", "TorchJD DWA", "TorchJD autojac.jac"],
)
def test_a_peer_agrees(name):
    row = row_of(name)
    assert (row.status, row.failed, row.diagnosis) == ("agrees", 0, "")
    assert row.passed > 0


# GRADNORM-PYTORCH


def test_gradnorm_pytorch_departs_in_four_places():
    row = row_of("gradnorm-pytorch GradNormLossWeighter")
    names = "InvertedRate [GN-4] + MeanForSum [GN-5] + AbsoluteSum [GN-7] + LossGradLeaks [LIVE-4]"
    assert row.status == "departs"
    assert row.diagnosis.startswith(f"identical to the known departures {names}: ")


def test_gradnorm_pytorch_by_hand():
    """K = 2, norms (3, 1), L = L(0) ⊙ (2, 1), α = 1: r = (4/3, 2/3), Ḡ = 2.

    Targets by GN-4 (8/3, 4/3), the package's Ḡ/r (3/2, 3): the signs are (+, −) in both. The slope by GN-6 is
    (3, −1), the package's half of it. With lr = 1/2 it comes to w = (1/4, 5/4), and (1/3, 5/3) after renormalisation.
    """
    impl = peer("gradnorm-pytorch GradNormLossWeighter").implementation()
    method = GradNorm(alpha=1.0, lr=0.5)
    problem = Problem(method, np.array([2.0, 1.0]), np.array([[3.0, 0.0], [0.0, 1.0]]))
    state = SimpleNamespace(weights=np.ones(2), initial_losses=np.ones(2))
    np.testing.assert_allclose(impl.step(problem, state)["w_next"].detach(), [1 / 3, 5 / 3], rtol=1e-12)


def test_gradnorm_pytorch_slows_the_task_that_lags():
    """Equal norms, and task 0 lags, r = (3/2, 1/2): GN-4 raises its target and its weight; the package lowers it."""
    impl = peer("gradnorm-pytorch GradNormLossWeighter").implementation()
    problem = Problem(GradNorm(alpha=1.0, lr=0.1), np.array([3.0, 1.0]), np.eye(2))
    state = SimpleNamespace(weights=np.ones(2), initial_losses=np.ones(2))
    assert impl.step(problem, state)["w_next"][0] < 1
    known = GradNorm(alpha=1.0, lr=0.1)
    after = known.step(known.step(known.init(2), [1.0, 1.0], np.eye(2)).state, [3.0, 1.0], np.eye(2))
    assert after.terms["w_next"][0] > 1


def test_gradnorm_pytorch_agrees_where_alpha_is_zero_but_for_the_rate():
    """With α = 0 no rate is inverted; the slope is half of GN-6 for K = 2, and twice the rate makes up for it."""
    impl = peer("gradnorm-pytorch GradNormLossWeighter").implementation()
    losses, jacobian = np.array([2.0, 1.0]), np.array([[3.0, 0.0], [0.0, 1.0]])
    state = SimpleNamespace(weights=np.ones(2), initial_losses=np.ones(2))
    found = impl.step(Problem(GradNorm(alpha=0.0, lr=0.2), losses, jacobian), state)["w_next"]
    known = GradNorm(alpha=0.0, lr=0.1)
    expected = known.step(known.init(2), losses, jacobian).terms["w_next"]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-12)


def test_gradnorm_pytorch_s_weights_drag_their_history_along():
    """The buffer is written into with a tensor that has a graph: what hangs on it grows from step to step."""
    peer("gradnorm-pytorch GradNormLossWeighter")
    from mtlref.conformance.adapters.torch import Surrogate
    from mtlref.conformance.peers.gradnorm_pytorch import made

    problem = Problem(GradNorm(), np.ones(2), np.array([[3.0, 0.0], [0.0, 1.0]]))
    model = Surrogate(problem, split=False)
    weighter = made(problem.method, 2, model.shared[0])
    sizes = []
    for _ in range(4):
        weighter.backward(model(problem))
        seen, stack = set(), [weighter.loss_weights.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack.extend(parent for parent, _ in node.next_functions)
        sizes.append(len(seen))
    assert 0 < sizes[0] < sizes[1] < sizes[2] < sizes[3]


# LIBMTL


def test_libmtl_gradnorm_departs():
    row = row_of("LibMTL GradNorm")
    assert row.status == "departs"
    names = "LogitsMoved [GN-7] + HeadsUnweighted [GN-8]"
    assert row.diagnosis.startswith(f"identical to the known departures {names}: ")


def logits_step(w, slope, lr):
    """w = K softmax(v), v ← v − lr ∂L_grad/∂v: ∂w_i/∂v_j = w_i (δ_ij − w_j / K)."""
    v = np.log(w) - lr * w * (slope - slope @ w / len(w))
    return len(w) * np.exp(v) / np.exp(v).sum()


def test_libmtl_gradnorm_moves_logits():
    """Its weights are K softmax(v), and the optimiser moves v; its slope in w is GN-6."""
    impl = peer("LibMTL GradNorm").implementation()
    method = GradNorm(alpha=1.5, lr=0.1)
    rng = np.random.default_rng(2)
    for _ in range(5):
        w = rng.uniform(0.5, 1.5, 3)
        w *= 3 / w.sum()
        J, L, L_0 = rng.standard_normal((3, 5)), rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 3)
        n = np.linalg.norm(J, axis=1)
        rate = L / L_0
        slope = np.sign(w * n - np.mean(w * n) * (rate / rate.mean()) ** 1.5) * n
        state = SimpleNamespace(weights=w, initial_losses=L_0)
        found = impl.step(Problem(method, L, J), state)
        np.testing.assert_allclose(found["w_next"].numpy(), logits_step(w, slope, 0.1), rtol=1e-5)
        np.testing.assert_allclose(found["direction"].numpy(), w @ J, rtol=1e-4, atol=1e-6)


def test_libmtl_gradnorm_leaves_its_heads_unweighted():
    impl = peer("LibMTL GradNorm").implementation()
    problem = Problem(GradNorm(), np.ones(3), np.eye(3))
    state = SimpleNamespace(weights=np.array([0.5, 1.0, 1.5]), initial_losses=np.ones(3))
    found = impl.step(problem, state)
    np.testing.assert_allclose(found["weights"], [0.5, 1.0, 1.5], rtol=1e-6)
    np.testing.assert_array_equal(found["head_weights"].numpy(), [1, 1, 1])


def test_libmtl_gradnorm_keeps_its_weights_in_the_first_epoch():
    peer("LibMTL GradNorm")
    from mtlref.conformance.adapters.torch import Surrogate
    from mtlref.conformance.peers.libmtl import FLOAT, balanced, model_of

    method = GradNorm()
    problem = Problem(method, np.ones(3), np.diag([1.0, 2.0, 3.0]))
    surrogate = Surrogate(problem, FLOAT)
    model = model_of("GradNorm", surrogate, 3)
    assert model.epoch == 0
    np.testing.assert_array_equal(balanced(model, surrogate, problem)["w_next"].numpy(), [1, 1, 1])
    assert np.ptp(method.step(method.init(3), np.ones(3), problem.jacobian).terms["w_next"]) > 0.01


@pytest.mark.parametrize("kind", ["GradNorm", "PCGrad"])
def test_libmtl_s_gradient_methods_crash_under_pytorch_2(kind):
    """`zero_grad` leaves None since PyTorch 2.0, and `_reset_grad` writes into `.grad.data`."""
    peer("LibMTL GradNorm")
    import torch

    from mtlref.conformance.adapters.torch import Surrogate
    from mtlref.conformance.peers.libmtl import FLOAT, model_of

    problem = Problem(GradNorm(), np.ones(3), np.eye(3))
    surrogate = Surrogate(problem, FLOAT)
    model = model_of(kind, surrogate, 3)
    model.zero_grad_share_params = surrogate.shared.zero_grad  # as its architectures do it
    model.epoch, model.train_loss_buffer = 1, np.ones((3, 1))
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'data'"):
        model.backward(torch.stack(surrogate(problem)), alpha=1.5)


TRIPLE = np.array([[1.0, 0.0], [np.cos(np.radians(150)), 0.5], [np.cos(np.radians(210)), -0.5]])
"""Unit vectors at 0°, 150° and 210°."""


def surgery(impl, jacobian, draw):
    return impl.step(Problem(PCGrad(), np.ones(len(jacobian)), jacobian, np.array(draw)), None)


def test_libmtl_pcgrad_meets_itself():
    """Its order holds the task's own index; in the plane the third projection is one on itself."""
    impl = peer("LibMTL PCGrad").implementation()
    draw = [[1, 2], [0, 2], [0, 1]]
    with_self = [[1, 2, 0], [0, 2, 1], [0, 1, 2]]
    ours = lambda method, order: method.step(method.init(3), np.ones(3), TRIPLE, draw=order).weights @ TRIPLE  # noqa: E731
    found = surgery(impl, TRIPLE, draw)["direction"].numpy()
    np.testing.assert_allclose(found, ours(PCGrad(include_self=True), with_self), atol=1e-6)
    assert np.max(np.abs(found - ours(PCGrad(), draw))) > 0.1


def test_libmtl_pcgrad_reports_the_weights_that_it_uses():
    impl = peer("LibMTL PCGrad").implementation()
    rng = np.random.default_rng(0)
    for _ in range(10):
        J = rng.standard_normal((4, 3))
        found = surgery(impl, J, [[j for j in rng.permutation(4) if j != i] for i in range(4)])
        np.testing.assert_allclose(found["direction"].numpy(), found["weights"] @ J, atol=1e-5)


def test_libmtl_pcgrad_departs():
    row = row_of("LibMTL PCGrad")
    assert row.status == "departs"
    assert "PCG-C1" in row.diagnosis or "SelfIncluded" in row.diagnosis


# TORCHJD AND CONFLICTFREE


def test_torchjd_pcgrad_is_the_specification_for_every_draw():
    impl = peer("TorchJD PCGrad").implementation()
    rng, method = np.random.default_rng(4), PCGrad()
    for K in (2, 3, 4, 5):
        for _ in range(10):
            J, draw = rng.standard_normal((K, 3)), method.sample(rng, K)
            expected = method.step(method.init(K), np.ones(K), J, draw=draw).weights
            np.testing.assert_allclose(surgery(impl, J, draw)["w"], expected, rtol=1e-9, atol=1e-12)


def test_conflictfree_pcgrad_meets_the_others_in_a_fixed_order():
    impl = peer("conflictfree PCGradOperator").implementation()
    rng, method, changed = np.random.default_rng(4), PCGrad(), 0
    in_order = [[j for j in range(4) if j != i] for i in range(4)]
    for _ in range(20):
        J = rng.standard_normal((4, 3))
        expected = {}
        for name, draw in (("fixed", in_order), ("drawn", method.sample(rng, 4))):
            expected[name] = method.step(method.init(4), np.ones(4), J, draw=draw).weights @ J
        found = surgery(impl, J, in_order)["direction"].numpy()
        np.testing.assert_allclose(found, expected["fixed"], rtol=1e-9, atol=1e-12)
        changed += not np.allclose(expected["drawn"], expected["fixed"])
    assert changed > 5


def test_conflictfree_pcgrad_departs():
    row = row_of("conflictfree PCGradOperator")
    assert row.status == "departs"
    assert row.diagnosis.startswith("identical to the known defect FixedOrder [PCG-2]")


def test_a_declared_choice_is_no_departure():
    """LibMTL's start of UW at s = −½ is UW-C2; gradnorm-pytorch's norms of one parameter are LIVE-C1."""
    results = check_implementation(peer("LibMTL UW").implementation())
    assert {r.status for r in results} <= {"passed", "skipped"}
    declared = peer("gradnorm-pytorch GradNormLossWeighter").implementation().choices
    assert declared == {"least": 2, "layer": "matrix"}
