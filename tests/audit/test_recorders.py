"""The recorded runs, recorded anew: the same verdicts. Needs torch, scikit-learn and gradnorm-pytorch."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from mtlref.audit import judge, read_run, write_log

for package in ("torch", "sklearn", "gradnorm_pytorch"):
    pytest.importorskip(package, reason="the recorders need the extra 'record'")


@pytest.mark.parametrize("name", ["gradnorm-pytorch", "torch-loop"])
def test_a_run_recorded_anew_gets_the_shipped_run_s_verdict(tmp_path, name):
    recorder = importlib.import_module(f"mtlref.audit.recorders.{name.replace('-', '_')}")
    shipped = read_run(f"example:{name}")
    path = tmp_path / "anew.csv"
    write_log(path, recorder.record(), {"method": "gradnorm", "settings": {"alpha": 1.5, "lr": 0.025}})
    anew = read_run(str(path))
    assert anew.log.tasks == shipped.log.tasks
    np.testing.assert_allclose(anew.log.losses[:5], shipped.log.losses[:5], rtol=1e-4)
    verdict, expected = judge(anew.method, anew.log), judge(shipped.method, shipped.log)
    assert verdict.passed == expected.passed
    if expected.diagnosis is None:
        assert verdict.diagnosis is None
    else:
        assert verdict.diagnosis.kind == expected.diagnosis.kind == "identical"
        names = [[d.name for d in v.diagnosis.explanations[0].defects] for v in (verdict, expected)]
        assert names[0] == names[1]


def test_the_package_s_loss_also_reaches_the_network():
    """derivations/gradnorm.md: the gradient that gradnorm-pytorch leaves on the network is not Σ w_i ∇L_i alone."""
    import torch
    from gradnorm_pytorch import GradNormLossWeighter

    torch.manual_seed(0)
    layer, heads = torch.nn.Linear(4, 3), [torch.nn.Linear(3, 1) for _ in range(2)]
    weighter = GradNormLossWeighter(num_losses=2, restoring_force_alpha=1.0, grad_norm_parameters=layer.weight)
    hidden = torch.tanh(layer(torch.randn(8, 4)))
    losses = [head(hidden).square().mean() for head in heads]
    label = torch.autograd.grad(losses[0] + losses[1], layer.weight, retain_graph=True)[0]
    weighter.backward(losses)
    assert torch.linalg.norm(layer.weight.grad - label) > 1e-3 * torch.linalg.norm(label)
