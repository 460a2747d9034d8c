"""The adapters for PyTorch: what they build, right code in many styles, and wrong code by name."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra")

from mtlref import GradNorm  # noqa: E402
from mtlref.conformance import Implementation, Problem, Run, check_implementation  # noqa: E402
from mtlref.conformance.adapters import torch as adapter  # noqa: E402
from mtlref.conformance.checks import of  # noqa: E402
from mtlref.conformance.diagnosis import diagnose  # noqa: E402
from mtlref.conformance.implementation import Answers  # noqa: E402
from tests.conformance import recipes  # noqa: E402

DTYPES = [torch.float64, torch.float32]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def problem(K=3, D=7, seed=0):
    rng = np.random.default_rng(seed)
    return Problem(GradNorm(), rng.uniform(0.5, 2, K), rng.standard_normal((K, D)))


def unwelcome(impl):
    return [
        (r.name, r.message or r.reason) for r in check_implementation(impl) if r.status not in ("passed", "skipped")
    ]


def first_name(impl):
    found = diagnose(Answers(impl), of(impl.method, impl.live is not None)[0])
    return [candidate.name for candidate in found.candidates] or found.text


# THE SURROGATE


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("D", [1, 2, 3, 5, 7, 9])
def test_the_surrogate_has_the_problem_s_values_and_gradients(D, dtype):
    given = problem(D=D)
    model = adapter.Surrogate(given, dtype)
    losses = model(given)
    assert [loss.item() for loss in losses] == torch.tensor(given.losses, dtype=dtype).tolist()
    for i, loss in enumerate(losses):
        model.zero_grad()
        loss.backward()
        assert model.observed()["direction"].tolist() == torch.tensor(given.jacobian[i], dtype=dtype).tolist()
        assert model.observed()["head_weights"].tolist() == np.eye(3)[i].tolist()


def test_the_surrogate_splits_theta_as_live_code_has_it():
    assert [tuple(p.shape) for p in adapter.Surrogate(problem()).shared] == [(2, 1), (1, 2), (3,)]
    assert [tuple(p.shape) for p in adapter.Surrogate(problem(), split=False).shared] == [(7,)]
    assert sum(p.numel() for p in adapter.Surrogate(Run((problem(),))).parameters()) == 7 + 3


def test_an_optimiser_may_move_the_surrogate_between_the_steps():
    given = problem()
    model = adapter.Surrogate(given)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        torch.stack(model(given)).sum().backward()
        np.testing.assert_allclose(model.observed()["direction"], given.jacobian.sum(axis=0), rtol=1e-15)
        optimiser.step()
    assert [loss.item() for loss in model(given)] == given.losses.tolist()


def test_what_no_gradient_has_reached_is_not_descended():
    seen = adapter.Surrogate(problem()).observed()
    assert seen["direction"].tolist() == [0] * 7
    assert seen["head_weights"].tolist() == [0] * 3


# PER-TASK GRADIENTS, IN EVERY STYLE


def by_grad(net, losses):
    return [adapter.flat(torch.autograd.grad(loss, list(net.shared), retain_graph=True)) for loss in losses]


def by_backward(net, losses):
    rows = []
    for loss in losses:
        net.zero_grad()
        loss.backward(retain_graph=True)
        rows.append(adapter.descended(net.shared))
    return rows


def by_backward_into_zeros(net, losses):
    rows = []
    for loss in reversed(losses):
        net.zero_grad(set_to_none=False)
        loss.backward(retain_graph=True)
        rows.insert(0, adapter.descended(net.shared))
    return rows


def by_batched_grad(net, losses):
    parts = torch.autograd.grad(
        torch.stack(losses), list(net.shared), torch.eye(len(losses), dtype=net.dtype), is_grads_batched=True
    )
    return torch.cat([part.reshape(len(losses), -1) for part in parts], dim=1)


def of_each(rows):
    def step(live, dtype):
        net = adapter.network(live, dtype)
        losses = net.losses(live)
        heads = [
            torch.autograd.grad(loss, list(h), retain_graph=True) for loss, h in zip(losses, net.heads, strict=True)
        ]
        found = {"losses": losses, "head_gradients": torch.cat([adapter.flat(head) for head in heads])}
        return {**found, "jacobian": rows(net, losses)}

    return step


def by_jacrev(live, dtype):
    net = adapter.network(live, dtype)

    class Losses(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            return torch.stack(self.net.losses(live))

    module = Losses()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    losses = lambda p: torch.func.functional_call(module, p, ())  # noqa: E731
    parts = torch.func.jacrev(losses)(parameters)
    shared = [part.reshape(len(net.heads), -1) for name, part in parts.items() if name.startswith("net.shared")]
    return {"losses": losses(parameters), "jacobian": torch.cat(shared, dim=1)}


STYLES = {
    "autograd.grad": of_each(by_grad),
    "backward, cleared": of_each(by_backward),
    "backward, zeroed, reversed": of_each(by_backward_into_zeros),
    "batched": of_each(by_batched_grad),
    "jacrev": by_jacrev,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("style", STYLES)
def test_right_gradients_pass_in_torch(style, dtype):
    step = lambda live, state: STYLES[style](live, dtype)  # noqa: E731
    assert unwelcome(Implementation("jacobian", name=style, step=step, dtype=name_of(dtype))) == []


def accumulated(net, losses):
    rows = []
    for loss in losses:
        loss.backward(retain_graph=True)
        rows.append(adapter.descended(net.shared))
    return rows


def last_layer(net, losses):
    return [adapter.flat(torch.autograd.grad(loss, net.last_shared, retain_graph=True)) for loss in losses]


def matrices(net, losses):
    shared = list(net.shared)[::2]
    return [adapter.flat(torch.autograd.grad(loss, shared, retain_graph=True)) for loss in losses]


def everything(net, losses):
    rows = [
        torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True) for loss in losses
    ]
    zeros = [torch.zeros_like(p) for p in net.parameters()]
    return [adapter.flat(z if g is None else g for g, z in zip(row, zeros, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (accumulated, "Accumulated [LIVE-2]"),
        (last_layer, "LastLayerOnly [LIVE-2]"),
        (matrices, "BiasLeftOut [LIVE-2]"),
        (everything, "TrunkAndHeads [LIVE-2]"),
        (lambda net, losses: by_grad(net, [loss / len(losses) for loss in losses]), None),
    ],
)
def test_wrong_gradients_in_torch_are_named(rows, name):
    def step(live, state):
        net = adapter.network(live)
        losses = net.losses(live)
        return {"losses": losses, "jacobian": rows(net, losses)}

    found = first_name(Implementation("jacobian", name="wrong", step=step))
    assert found == [name or "MeanOverTasks [LIVE-2]"]


def test_a_sum_over_the_batch_in_torch_is_named(monkeypatch):
    def step(live, state):
        net = adapter.network(live)
        losses = net.losses(live)
        return {"losses": losses, "jacobian": by_grad(net, losses)}

    for kind, function in list(adapter.LOSSES.items()):
        monkeypatch.setitem(adapter.LOSSES, kind, lambda *given, f=function: f(*given, reduction="sum"))
    assert first_name(Implementation("jacobian", name="sums", step=step)) == ["SumForMean [LIVE-1]"]


def test_a_detached_path_in_torch_is_named():
    class Cut(adapter.Network):
        def forward(self, x):
            W1, b1, W2, b2 = self.shared
            h = self.activation(torch.as_tensor(x, dtype=self.dtype) @ W1 + b1).detach()
            h = self.activation(h @ W2 + b2)
            return [h @ W + b for W, b in self.heads]

    def step(live, state):
        net = Cut(live)
        rows = by_backward(net, net.losses(live))
        return {"jacobian": rows}

    assert first_name(Implementation("jacobian", name="cut", step=step)) == ["DetachedPath [LIVE-2]"]


# A METHOD ON A LIVE NETWORK


def gradnorm_loop(change=None, dtype=torch.float64, leak=False, evaluate=False):
    """A training loop with the recipe's GradNorm; `change` is done before the gradients are read."""

    def live(run):
        net = adapter.network(run, dtype)
        mine = recipes.torch_module()(net.shared, run.n_tasks, run.method.alpha, run.method.lr).to(dtype)
        for step in run:
            net.load(step)
            net.zero_grad()
            losses = net.losses(step)
            mine.backward(losses)
            if change is not None:
                change(net, mine, losses)
            row = {"w_next": mine.weights, **net.observed()}
            if evaluate and step.evaluation is not None:
                with torch.no_grad():
                    net(step.evaluation[0])
            yield row

    return live


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_a_right_training_loop_passes_in_torch(dtype):
    live = gradnorm_loop(dtype=dtype, evaluate=True)
    assert unwelcome(Implementation("gradnorm", name="mine", live=live, dtype=name_of(dtype))) == []


def divide_trunk(net, mine, losses):
    for p in net.shared:
        p.grad /= len(losses)


def test_a_trunk_on_the_mean_s_scale_is_named_in_torch():
    impl = Implementation("gradnorm", name="mine", live=gradnorm_loop(divide_trunk))
    assert first_name(impl) == ["TrunkMeanHeadsSum [LIVE-4]"]


def test_gradients_that_are_never_cleared_are_named_in_torch(monkeypatch):
    monkeypatch.setattr(adapter.Network, "zero_grad", lambda self, set_to_none=True: None)
    impl = Implementation("gradnorm", name="mine", live=gradnorm_loop())
    assert first_name(impl) == ["StaleGradients [LIVE-4]"]


def test_a_leak_of_the_gradient_loss_is_named_in_torch():
    """The common mistake: L_grad.backward() on a graph that reaches the network."""

    def live(run):
        net = adapter.network(run)
        w, L_0, K = torch.ones(run.n_tasks, dtype=torch.float64), None, run.n_tasks
        for step in run:
            net.load(step)
            net.zero_grad()
            L = torch.stack(net.losses(step))
            L_0 = L.detach() if L_0 is None else L_0
            (w * L).sum().backward(retain_graph=True)
            leaf = w.clone().requires_grad_()
            rows = [
                torch.autograd.grad(a * x, list(net.shared), create_graph=True) for a, x in zip(leaf, L, strict=True)
            ]
            G = torch.stack([adapter.flat(row).norm() for row in rows])
            rate = L.detach() / L_0
            target = (G.mean() * (rate / rate.mean()) ** run.method.alpha).detach()
            (G - target).abs().sum().backward()
            u = w - run.method.lr * leaf.grad
            row = {"weights": w, "w_next": K * u / u.sum(), **net.observed()}
            w = row["w_next"]
            yield row

    impl = Implementation("gradnorm", name="leak", live=live)
    assert first_name(impl) == ["LossGradLeaks [LIVE-4]"]
