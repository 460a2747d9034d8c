"""Real runs of public packages and of a loop in JAX, recorded as they train, audited with the expected verdicts.

The runs of gradnorm-pytorch and of a loop written by hand in torch are in `test_recorders`.
"""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import Recorder, judge, read_run

TASKS = ("line", "curve", "wave")
K, STEPS = len(TASKS), 120


def verdict_of(path, **options):
    found = read_run(str(path), **options)
    return judge(found.method, found.log)


class Network:
    """Three regressions on a shared layer of 12 units, in torch and float32."""

    def __init__(self):
        torch = pytest.importorskip("torch", reason="the run needs torch")
        torch.manual_seed(0)
        self.torch, self.trunk = torch, torch.nn.Linear(4, 12)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(12, 1) for _ in TASKS)
        self.x = torch.randn(256, 4)
        mixed = self.x @ torch.randn(4, K)
        self.y = torch.stack([mixed[:, 0], 3 * mixed[:, 1] ** 2, torch.sin(2 * mixed[:, 2])])
        self.optimiser = torch.optim.SGD([*self.trunk.parameters(), *self.heads.parameters()], lr=0.02)

    def losses(self, batch):
        """The mean squared errors on 32 examples, (K,)."""
        at = slice(32 * (batch % 8), 32 * (batch % 8) + 32)
        hidden = self.torch.tanh(self.trunk(self.x[at]))
        errors = [head(hidden)[:, 0] - y[at] for head, y in zip(self.heads, self.y, strict=True)]
        return self.torch.stack([error.square().mean() for error in errors])

    def jacobian(self, losses):
        """The gradients in the trunk, (K, D)."""
        shared = list(self.trunk.parameters())
        rows = [self.torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        return self.torch.stack([self.torch.cat([part.flatten() for part in row]) for row in rows])


def libmtl_model(kind, network):
    """LibMTL's class of that name on the network's trunk, as its architectures make it."""
    try:
        from mtlref.conformance.peers.libmtl import weighting
    except ImportError:
        pytest.skip("the run needs LibMTL")

    class Model(getattr(weighting, kind)):
        def get_share_params(self):
            return network.trunk.parameters()

        def zero_grad_share_params(self):
            network.trunk.zero_grad(set_to_none=False)

    model = Model()
    model.task_num, model.device, model.rep_grad, model.epoch = K, network.torch.device("cpu"), False, 0
    model.init_param()
    return model


def test_a_run_of_libmtl_s_dwa_follows(tmp_path):
    network = Network()
    model = libmtl_model("DWA", network)
    epochs = 30
    model.train_loss_buffer = np.zeros((K, epochs))
    with Recorder(tmp_path / "run.csv", TASKS, method="dwa", settings={"temperature": 2.0}) as log:
        for model.epoch in range(epochs):
            seen = []
            for batch in range(8):
                losses = network.losses(batch)
                network.optimiser.zero_grad()
                weights = model.backward(losses, T=2.0)
                network.optimiser.step()
                seen.append(losses.detach().numpy())
                log.step(losses=losses, weights=weights, epoch=model.epoch)
            model.train_loss_buffer[:, model.epoch] = np.mean(seen, axis=0)
    verdict = verdict_of(tmp_path / "run.csv")
    assert verdict.passed
    assert verdict.steps == epochs - 1


def test_a_run_of_libmtl_s_uncertainty_weighting_follows_from_where_it_starts(tmp_path):
    """It starts at s = -1/2, not at 0 (UW-C2): each step follows, and the start is the one departure."""
    network = Network()
    model = libmtl_model("UW", network)
    optimiser = network.torch.optim.SGD([model.loss_scale], lr=0.05)
    settings = {"lr": 0.05, "likelihoods": "gaussian"}
    with Recorder(tmp_path / "run.csv", TASKS, method="uncertainty", settings=settings) as log:
        for batch in range(STEPS):
            losses = network.losses(batch)
            network.optimiser.zero_grad()
            optimiser.zero_grad()
            weights = model.backward(losses)
            network.optimiser.step()
            optimiser.step()
            log.step(losses=losses, weights=weights)
    verdict = verdict_of(tmp_path / "run.csv")
    assert verdict.departures == 1
    assert (verdict.first.row, verdict.run.follows) == (0, True)


def test_a_run_of_torchjd_s_pcgrad_follows(tmp_path):
    aggregation = pytest.importorskip("torchjd.aggregation", reason="the run needs torchjd")
    network, seen = Network(), []
    aggregator = aggregation.PCGrad()
    aggregator.gramian_weighting.register_forward_hook(lambda module, given, out: seen.append(out))
    with Recorder(tmp_path / "run.csv", TASKS[:2], method="pcgrad") as log:
        for batch in range(STEPS):
            losses = network.losses(batch)[:2]
            J = network.jacobian(losses)
            direction = aggregator(J)
            log.step(losses=losses, gram=J.double() @ J.double().T, weights=seen[-1])
            with network.torch.no_grad():
                network.trunk.weight -= 0.02 * direction[:48].reshape(12, 4)
                network.trunk.bias -= 0.02 * direction[48:]
    verdict = verdict_of(tmp_path / "run.csv")
    assert verdict.passed
    assert verdict.steps == STEPS


def test_a_run_of_torchjd_s_dwa_follows(tmp_path):
    scalarization = pytest.importorskip("torchjd.scalarization", reason="the run needs torchjd")
    network, scalarizer = Network(), scalarization.DWA(temperature=1.0)
    with Recorder(tmp_path / "run.csv", TASKS, method="dwa", settings={"temperature": 1.0}) as log:
        for _ in range(30):
            seen, weights = [], None
            for batch in range(8):
                losses = network.losses(batch)
                weights = network.torch.autograd.grad(scalarizer(losses), losses, retain_graph=True)[0]
                network.optimiser.zero_grad()
                (weights @ losses).backward()
                network.optimiser.step()
                seen.append(losses.detach().double().numpy())
            log.step(losses=np.mean(seen, axis=0), weights=weights)
            scalarizer.step()
    verdict = verdict_of(tmp_path / "run.csv")
    assert verdict.passed
    assert verdict.steps == 29


@pytest.mark.parametrize("slip", [False, True])
def test_a_run_of_gradnorm_in_jax(tmp_path, slip):
    """Algorithm 1, the weights' gradient by JAX; the slip divides L(0) by L. float32, the norms of the loop's own."""
    jax = pytest.importorskip("jax", reason="the run needs jax")
    jnp = jax.numpy
    keys = jax.random.split(jax.random.key(1), 3)
    A, b = jax.random.normal(keys[0], (K, 16, 5)), jax.random.normal(keys[1], (K, 16))
    theta, weights, first = jax.random.normal(keys[2], (5,)), jnp.ones(K), None

    def losses_of(theta):
        return jnp.mean((jnp.einsum("knd,d->kn", A, jnp.tanh(theta)) - b) ** 2, axis=1)

    @jax.jit
    def step(theta, weights, first):
        losses, J = losses_of(theta), jax.jacobian(losses_of)(theta)
        norms = jnp.linalg.norm(J, axis=1)
        progress = losses / first
        rates = (progress.mean() / progress if slip else progress / progress.mean()) ** 1.5
        target = jax.lax.stop_gradient((weights * norms).mean() * rates)
        slope = jax.grad(lambda w: jnp.abs(w * norms - target).sum())(weights)
        moved = weights - 0.01 * slope
        return losses, norms, theta - 0.01 * weights @ J, K * moved / moved.sum()

    with Recorder(tmp_path / "run.jsonl", TASKS, method="gradnorm", settings={"alpha": 1.5, "lr": 0.01}) as log:
        for _ in range(STEPS):
            first = losses_of(theta) if first is None else first
            losses, norms, theta, following = step(theta, weights, first)
            log.step(losses=losses, norms=norms, weights=weights)
            weights = following
    verdict = verdict_of(tmp_path / "run.jsonl")
    assert verdict.passed != slip
    if slip:
        assert verdict.diagnosis.kind == "identical"
        assert [d.name for d in verdict.diagnosis.explanations[0].defects] == ["InvertedRate"]
    else:
        assert verdict.steps == STEPS - 1
