"""Recipes: how code of four kinds is plugged in. The README shows these functions, the tests run them."""

from __future__ import annotations

import numpy as np

from mtlref.conformance import Implementation

# SOMEBODY'S CODE


class Balancer:
    """A stateful object with `step(losses, jacobian)`."""

    def __init__(self, n_tasks, alpha, lr):
        self.w, self.L_0, self.alpha, self.lr = np.ones(n_tasks), None, alpha, lr

    def step(self, losses, jacobian):
        self.L_0 = losses.copy() if self.L_0 is None else self.L_0
        self.w = updated(self.w, losses, self.L_0, jacobian, self.alpha, self.lr)
        return self.w


def updated(w, L, L_0, J, alpha, lr):
    """A bare function: the next weights from everything."""
    n = np.linalg.norm(J, axis=1)
    G, rate = np.abs(w) * n, L / L_0
    target = G.mean() * (rate / rate.mean()) ** alpha
    u = w - lr * np.sign(G - target) * np.sign(w) * n
    return len(u) * u / u.sum()


class Callback:
    """A TensorFlow-style callable: NumPy arrays of float32 in, the weights of the next step out."""

    def __init__(self, alpha, lr):
        self.balancer, self.alpha, self.lr = None, alpha, lr

    def __call__(self, losses, gradients):
        assert losses.dtype == gradients.dtype == np.float32
        if self.balancer is None:
            self.balancer = Balancer(len(losses), np.float32(self.alpha), np.float32(self.lr))
            self.balancer.w = self.balancer.w.astype(np.float32)
        return self.balancer.step(losses, gradients)


def torch_module():
    """A torch module that calls `backward` itself, on the parameters it is given; a function, for torch is
    optional."""
    import torch

    class GradNorm(torch.nn.Module):
        def __init__(self, shared, n_tasks, alpha, lr):
            super().__init__()
            self.shared, self.alpha, self.lr, self.L_0 = list(shared), alpha, lr, None
            self.register_buffer("weights", torch.ones(n_tasks, dtype=torch.float64))

        def backward(self, losses):
            L = torch.stack(losses)
            self.L_0 = L.detach() if self.L_0 is None else self.L_0
            w = self.weights.clone().requires_grad_()
            gradients = [torch.autograd.grad(loss, self.shared, retain_graph=True) for loss in losses]
            n = torch.stack([torch.cat([g.reshape(-1) for g in row]).norm() for row in gradients])
            G, rate = w.abs() * n, L.detach() / self.L_0
            target = (G.mean() * (rate / rate.mean()) ** self.alpha).detach()
            (slope,) = torch.autograd.grad((G - target).abs().sum(), w)
            (self.weights * L).sum().backward()
            u = self.weights - self.lr * slope
            self.weights = len(u) * u / u.sum()

    return GradNorm


# RECIPES


def stateful_object():
    def run(run):
        mine = Balancer(run.n_tasks, run.method.alpha, run.method.lr)
        for problem in run:
            yield {"w_next": mine.step(problem.losses, problem.jacobian)}

    return Implementation("gradnorm", name="a stateful object", run=run)


def bare_function():
    def step(problem, state):
        L_0 = problem.losses if state.initial_losses is None else state.initial_losses
        method = problem.method
        return {"w_next": updated(state.weights, problem.losses, L_0, problem.jacobian, method.alpha, method.lr)}

    return Implementation("gradnorm", name="a bare function", step=step)


def numpy_callable():
    def run(run):
        mine = Callback(run.method.alpha, run.method.lr)
        for problem in run:
            yield {"w_next": mine(problem.losses.astype(np.float32), problem.jacobian.astype(np.float32))}

    return Implementation("gradnorm", name="a callable on NumPy arrays", run=run, dtype="float32")


def module_with_backward():
    from mtlref.conformance.adapters.torch import Surrogate

    def run(run):
        model = Surrogate(run)
        mine = torch_module()(model.shared, run.n_tasks, run.method.alpha, run.method.lr)
        for problem in run:
            model.zero_grad()
            mine.backward(model(problem))
            yield {"w_next": mine.weights, **model.observed()}

    return Implementation("gradnorm", name="a torch module", run=run)


def module_on_a_live_network():
    from mtlref.conformance.adapters.torch import network

    def live(run):
        net = network(run)
        mine = torch_module()(net.shared, run.n_tasks, run.method.alpha, run.method.lr)
        for step in run:
            net.load(step)
            net.zero_grad()
            mine.backward(net.losses(step))
            yield {"w_next": mine.weights, **net.observed()}

    return Implementation("gradnorm", name="a torch module, live", live=live)


def gradients_of_a_framework():
    import torch

    from mtlref.conformance.adapters.torch import flat, network

    def step(live, state):
        net = network(live)
        losses = net.losses(live)
        rows = [flat(torch.autograd.grad(loss, list(net.shared), retain_graph=True)) for loss in losses]
        return {"losses": losses, "jacobian": rows}

    return Implementation("jacobian", name="autograd, task by task", step=step)


def hmoe_in_a_framework():
    import torch

    def leaf(array):
        return torch.tensor(array, requires_grad=True)

    def mlp(layers, h):
        for W, b in zip(layers[::2], layers[1::2], strict=True):
            h = h @ W + b if b is layers[-1] else activation[phi](h @ W + b)
        return h

    activation, phi = {"tanh": torch.tanh, "relu": torch.relu}, "tanh"

    def step(given, state):
        nonlocal phi
        phi, x = given.method.activation, torch.tensor(given.x)
        experts, towers = ([[leaf(p) for p in layers] for layers in kind] for kind in (given.experts, given.towers))
        gates, relations = ([leaf(p) for p in kind] for kind in (given.gates, given.relations))
        E = torch.stack([activation[phi](mlp(layers, x)) for layers in experts], dim=1)
        S = [
            mlp(tower, (torch.softmax(x @ V, 1)[:, :, None] * E).sum(1))
            for tower, V in zip(towers, gates, strict=True)
        ]
        out = []
        for k, R in enumerate(relations):
            a = torch.softmax(x @ R, 1)
            seen = [score if j == k else score.detach() for j, score in enumerate(S)]
            out.append(sum(a[:, j, None] * score for j, score in enumerate(seen)))
        losses = [(torch.tensor(d) * o).sum() for d, o in zip(given.delta, out, strict=True)]
        kinds = {
            "d_experts": [p for layers in experts for p in layers],
            "d_gates": gates,
            "d_relations": relations,
            "d_towers": [p for layers in towers for p in layers],
        }
        rows = {
            name: [torch.autograd.grad(loss, kind, retain_graph=True, materialize_grads=True) for loss in losses]
            for name, kind in kinds.items()
        }
        flat = {name: [torch.cat([g.ravel() for g in row]) for row in found] for name, found in rows.items()}
        return {"out": out, "S": S, **flat}

    return Implementation("hmoe", name="HMoE in torch", step=step)
