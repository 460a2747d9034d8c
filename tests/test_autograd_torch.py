"""Values, whole Jacobians and optimiser steps against PyTorch in float64."""

import numpy as np
import pytest

from mtlref import HMoE
from mtlref import autograd as ad
from mtlref import networks as nn
from mtlref.autograd import value_and_jacobian
from mtlref.networks import SharedTrunk
from mtlref.optimisers import SGD, Adam, Momentum

torch = pytest.importorskip("torch", reason="compares with PyTorch, of the extra torch")

F = torch.nn.functional
RNG = np.random.default_rng
X = RNG(0).normal(size=(16, 6))
Y, CLASSES, BITS = RNG(1).normal(size=(16, 3)), RNG(2).integers(0, 4, 16), RNG(3).integers(0, 2, (16, 2))


def torch_jacobian(function, flat):
    """The values and the Jacobian of PyTorch, one backward pass a loss."""
    leaves = [torch.tensor(x, requires_grad=True) for x in flat]
    losses = function(leaves)
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
        rows.append(torch.cat([part.ravel() for part in parts]))
    return torch.stack(losses).detach().numpy(), torch.stack(rows).numpy()


def agree(ours, theirs, flat):
    values, J = value_and_jacobian(ours, flat)
    expected, expected_J = torch_jacobian(theirs, flat)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_allclose(J.matrix, expected_J, rtol=1e-10, atol=1e-13)


def stack(layers, x, phi):
    for W, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = phi(x @ W + b)
    return x @ layers[-2] + layers[-1]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_shared_trunk_with_every_loss(activation):
    network = SharedTrunk(6, (12, 9), (3, (5, 4), 2, (7, 8, 3), 3), activation)
    p = network.init(RNG(4))
    s = RNG(5).normal(size=3)

    def ours(flat):
        a, b, c, d, e = network.forward(p.rebuilt(flat[:-1]), X)
        return (
            nn.mse(a, Y),
            nn.cross_entropy(b, CLASSES),
            nn.binary_cross_entropy(c, BITS),
            nn.gaussian_nll(d, Y, flat[-1]),
            nn.absolute_error(e, Y),
        )

    def theirs(flat):
        phi = getattr(torch, activation)
        layers = p.rebuilt(flat[:-1])
        h = phi(stack(layers.shared, torch.tensor(X), phi))
        a, b, c, d, e = (stack(head, h, phi) for head in layers.heads)
        y = torch.tensor(Y)
        return (
            F.mse_loss(a, y),
            F.cross_entropy(b, torch.tensor(CLASSES)),
            F.binary_cross_entropy_with_logits(c, torch.tensor(BITS, dtype=torch.float64)),
            F.gaussian_nll_loss(d, y, flat[-1].exp().expand_as(d), eps=0.0),
            F.l1_loss(e, y),
        )

    agree(ours, theirs, (*p.flat, s))


def test_a_mixture_of_experts_with_a_gate_a_task():
    flat = [RNG(i).normal(size=shape) for i, shape in enumerate([(5, 6, 4), (6, 5), (6, 5), (4, 1), (4, 3)])]

    def ours(flat):
        E, g, k, A, B = flat
        hidden = ad.tanh(X @ E)
        a, b = (
            (ad.softmax(X @ gate).T.reshape((5, 16, 1)) * hidden).sum(axis=0) @ head
            for gate, head in ((g, A), (k, B))
        )
        return (a**2).mean(), nn.mse(b, Y)

    def theirs(flat):
        E, g, k, A, B = flat
        x = torch.tensor(X)
        hidden = torch.tanh(x @ E)
        gates = (torch.softmax(x @ gate, dim=1) for gate in (g, k))
        a, b = (torch.einsum("be,ebm->bm", w, hidden) @ head for w, head in zip(gates, (A, B), strict=True))
        return (a**2).mean(), F.mse_loss(b, torch.tensor(Y))

    agree(ours, theirs, flat)


@pytest.mark.parametrize("mix", ["logit", "prob", "hidden"])
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("share", [True, False])
def test_hmoe_with_detached_scores(mix, constrained, share):
    """HMOE-1 to HMOE-4 written with torch's own operations, and `detach` for the mask."""
    network = HMoE(6, 3, (5, 4), ((3, 2),) * 3, "tanh", share, share, mix, constrained)
    p = network.init(RNG(4))
    p = p.rebuilt([RNG(i).normal(size=array.shape) for i, array in enumerate(p.flat)])

    def theirs(flat):
        at, x = p.rebuilt(flat), torch.tensor(X)
        shared, heads = at.shared, at.heads
        gates, relations = (
            (shared[:1] * 3, shared[1:2] * 3) if share else zip(*[head[:2] for head in heads], strict=True)
        )
        W, b, V, c = shared[2:] if share else shared
        towers = heads if share else [head[2:] for head in heads]
        E = torch.tanh(torch.tanh(x @ W + b) @ V + c)
        f = [torch.einsum("be,ebm->bm", torch.softmax(x @ gate, dim=1), E) for gate in gates]
        hidden = [torch.tanh(f_k @ tower[0] + tower[1]) for f_k, tower in zip(f, towers, strict=True)]
        z = [h @ tower[2] + tower[3] for h, tower in zip(hidden, towers, strict=True)]
        S = {"logit": z, "prob": [torch.sigmoid(z_k) for z_k in z], "hidden": hidden}[mix]
        out = []
        for k, (R, tower) in enumerate(zip(relations, towers, strict=True)):
            a = torch.softmax(x @ R, dim=1)
            seen = [S_j if j == k or not constrained else S_j.detach() for j, S_j in enumerate(S)]
            mixed = sum(a[:, j : j + 1] * S_j for j, S_j in enumerate(seen))
            out.append(mixed @ tower[2] + tower[3] if mix == "hidden" else mixed)
        return [F.mse_loss(out_k, torch.tensor(Y[:, :2])) for out_k in out]

    agree(lambda flat: [nn.mse(out, Y[:, :2]) for out in network.forward(p.rebuilt(flat), X)], theirs, p.flat)


def test_kinks_and_tails_follow_torch():
    """AD-C1 and AD-C2 are PyTorch's conventions too."""
    x = [np.array([-800.0, -30.0, -1.0, 0.0, 2.0, 30.0, 800.0])]

    def losses(lib, sigmoid, softplus, absolute):
        return lambda flat: tuple(f(flat[0]).sum() for f in (lib.relu, lib.tanh, sigmoid, softplus, absolute))

    ours = losses(ad, ad.sigmoid, ad.softplus, ad.absolute)
    theirs = losses(torch, torch.sigmoid, F.softplus, torch.abs)
    agree(ours, theirs, x)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (SGD(0.03), lambda p: torch.optim.SGD(p, lr=0.03)),
        (Momentum(0.03, beta=0.8), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8)),
        (Adam(0.03), lambda p: torch.optim.Adam(p, lr=0.03)),
        (Adam(0.1, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3)),
    ],
    ids=str,
)
def test_optimisers_step_as_torch_does(ours, theirs):
    w = RNG(0).normal(size=(3, 2))
    leaf = torch.tensor(w, requires_grad=True)
    optimiser, state = theirs([leaf]), ours.init(w)
    for t in range(10):
        g = RNG(10 + t).normal(size=(3, 2))
        w, state = ours.step(state, w, g)
        leaf.grad = torch.tensor(g)
        optimiser.step()
        np.testing.assert_allclose(w, leaf.detach().numpy(), rtol=1e-12)
