"""Live problems: their numbers against complex steps and differences, their checks against known wrong plumbing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mtlref import MtlrefError
from mtlref.conformance import Implementation, check_implementation
from mtlref.conformance.checks import of
from mtlref.conformance.diagnosis import diagnose
from mtlref.conformance.implementation import Answers
from mtlref.conformance.live import (
    LOSSES,
    PerTaskGradients,
    backward,
    columns,
    live_problem,
    measured,
    nearest_kink,
    plumbed,
    stepped,
    train,
)
from mtlref.conformance.problem import Case
from mtlref.defects import DEFECTS, variant
from mtlref.defects import live as plumbing
from mtlref.methods import METHODS

MEASUREMENTS = plumbing.of("jacobian", descent=False)
NAMES = ("weights", "w_next", "direction", "head_gradients")


def lives(method=None, tasks=(2, 3, 4), seeds=range(12)):
    """Networks of every kind."""
    found = [
        train(method or PerTaskGradients(), np.random.default_rng(seed), K, 2, True) for K in tasks for seed in seeds
    ]
    return [live for run in found if run for live in run]


# THE NUMBERS


def forward(live, shared, heads):
    """The losses in NumPy that takes complex numbers: an oracle that shares no code with the package."""
    h = live.x
    for k in range(0, len(shared), 2):
        z = h @ shared[k] + shared[k + 1]
        h = np.tanh(z) if live.network.activation == "tanh" else z * (z.real > 0)
    losses = []
    for kind, (V, c), target in zip(live.kinds, heads, live.targets, strict=True):
        y = h @ V + c
        if kind == "cross-entropy":
            losses.append(np.mean(np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(y)), target]))
        else:
            error = y - target
            losses.append(np.mean(error**2 if kind == "mse" else error * np.sign(error.real)))
    return np.array(losses)


def derivative(live, part, index):
    """∂L/∂(one parameter) of all losses, by a complex step."""
    shared = [array.astype(complex) for array in live.shared]
    heads = [[array.astype(complex) for array in head] for head in live.heads]
    ([*shared, *(array for head in heads for array in head)][part]).ravel()[index] += 1e-30j
    return forward(live, shared, heads).imag / 1e-30


def test_losses_and_gradients_are_those_of_a_complex_step():
    kinds, activations = set(), set()
    for live in lives():
        kinds.update(live.kinds)
        activations.add(live.network.activation)
        found, D = measured(live), 0
        np.testing.assert_allclose(found.losses, forward(live, live.shared, live.heads), rtol=1e-13)
        scale = np.abs(found.jacobian).max()
        for part, array in enumerate(live.shared):
            for index in range(array.size):
                column = derivative(live, part, index)
                np.testing.assert_allclose(found.jacobian[:, D + index], column, rtol=1e-11, atol=1e-13 * scale)
            D += array.size
        assert found.jacobian.shape == (live.n_tasks, D)
        for task, head in enumerate(live.heads):
            part = len(live.shared) + 2 * task
            own = [derivative(live, part + k, i)[task] for k, a in enumerate(head) for i in range(a.size)]
            np.testing.assert_allclose(found.heads[task], own, rtol=1e-11, atol=1e-13 * scale)
    assert kinds == set(LOSSES)
    assert activations == {"tanh", "relu"}


def test_the_sizes_tell_mistakes_apart():
    """Batch, inputs, widths and outputs differ, biases are not zero, and no rounding decides a kink."""
    for live in lives():
        B, n = live.x.shape
        sizes = [
            B,
            n,
            *live.network.trunk,
            *{kind: len(head[-1]) for kind, head in zip(live.kinds, live.heads, strict=True)}.values(),
        ]
        assert len(set(sizes)) == len(sizes)
        assert all(np.all(array != 0) for array in live.shared)
        assert nearest_kink(live) >= 1e-3
        assert np.min(np.linalg.norm(measured(live).jacobian, axis=1)) > 0


def test_the_nearest_kink_is_found():
    """At a step of the size of the nearest absolute error, along that error's own bias, the loss has its kink."""
    for live in lives(seeds=range(30)):
        if live.network.activation == "tanh" and "absolute" in live.kinds:
            task = live.kinds.index("absolute")
            V, c = live.heads[task]
            h = live.x
            for W, b in zip(live.shared[::2], live.shared[1::2], strict=True):
                h = np.tanh(h @ W + b)
            errors = np.abs(h @ V + c - live.targets[task])
            others = [k for k in range(live.n_tasks) if live.kinds[k] == "absolute" and k != task]
            if not others:
                assert nearest_kink(live) == errors.min()
                return
    raise AssertionError("no such network")


def test_training_goes_down_and_each_step_follows_from_the_one_before():
    run = train(PerTaskGradients(), np.random.default_rng(3), 3, 4, False)
    assert run is not None
    for before, after in pairwise(run):
        total = backward(before)[1].sum(axis=0)
        expected = stepped(before, 0.15 * total / np.linalg.norm(total))
        for a, b in zip(expected.shared, after.shared, strict=True):
            np.testing.assert_array_equal(a, b)
        small = stepped(before, 1e-4 * total / np.linalg.norm(total))
        assert measured(small).losses.sum() < measured(before).losses.sum()


def test_the_leak_of_gradnorm_s_loss_is_the_slope_of_the_norms():
    """∇‖J_i‖ by the complex step of the hand-written back-propagation, against differences of the
    autograd's norms."""
    for live in lives(seeds=range(4)):
        for layer in ("all", "last", "matrix"):
            problem = live_problem(METHODS["gradnorm"](), live, layer)
            read = columns(live, layer)
            for task in range(live.n_tasks):
                slope = plumbing.norm_slope(problem, task)
                along = np.random.default_rng(task).standard_normal(len(slope))
                ahead, behind = (measured(stepped(live, -h * along)).jacobian[task, read] for h in (1e-5, -1e-5))
                difference = (np.linalg.norm(ahead) - np.linalg.norm(behind)) / 2e-5
                assert abs(slope @ along - difference) < 1e-6 * max(1, abs(difference))


def test_the_hand_written_gradient_is_the_autograd_s():
    for live in lives(seeds=range(4)):
        parameters = [*live.shared, *(array for head in live.heads for array in head)]
        for task in range(live.n_tasks):
            np.testing.assert_allclose(
                plumbing.task_gradient(live, parameters, task), backward(live)[1][task], rtol=1e-11, atol=1e-13
            )


# PER-TASK GRADIENTS


def gradients(*defects):
    """The specification's own measurement, with defects."""

    def step(live, state):
        found = plumbed(measured(live), live, defects)
        heads = np.concatenate(found.heads)
        return {"losses": found.losses, "jacobian": found.jacobian, "head_gradients": heads}

    return Implementation("jacobian", name="+".join(d.name for d in defects) or "right", step=step)


def statuses(impl):
    return {r.name: r.status for r in check_implementation(impl)}


def diagnosed(impl):
    return diagnose(Answers(impl), of(impl.method, impl.live is not None)[0])


def test_right_gradients_pass():
    assert set(statuses(gradients()).values()) == {"passed"}


@pytest.mark.parametrize("defect", MEASUREMENTS, ids=lambda d: d.name)
def test_wrong_gradients_are_named(defect):
    found = diagnosed(gradients(defect))
    assert [c.name for c in found.candidates] == [f"{defect.name} [{defect.equation}]"], found.text


def test_every_check_of_gradients_fails_for_a_defect():
    failed = set()
    for name in ("SumForMean", "Accumulated", "HeadsDetached"):
        failed |= {check for check, status in statuses(gradients(named(name))).items() if status == "failed"}

    def calls(live, state, seen=[]):  # noqa: B006 - it remembers on purpose
        seen.append(0)
        order = np.argsort(np.random.default_rng(len(seen)).random(measured(live).jacobian.shape[1]))
        return {"jacobian": measured(live).jacobian[:, order]}

    results = check_implementation(Implementation("jacobian", name="hash order", step=calls))
    asked_again = next(r for r in results if r.name == "check_jacobian_answers_every_problem")
    assert "gives another jacobian at step 0 when it is asked again" in asked_again.message
    failed.add(asked_again.name)
    assert failed == set(statuses(gradients()))


def named(name):
    return next(d for d in plumbing.of("gradnorm") if d.name == name)


def test_two_wrongs_are_named_together():
    found = diagnosed(gradients(named("SumForMean"), named("Accumulated")))
    assert [c.name for c in found.candidates] == ["SumForMean [LIVE-1] + Accumulated [LIVE-2]"]


def test_rows_in_another_order_fail():
    def step(live, state):
        return {"jacobian": measured(live).jacobian[::-1]}

    impl = Implementation("jacobian", name="reversed", step=step)
    assert "failed" in statuses(impl).values()
    assert diagnosed(impl).text == "unknown; differs first at jacobian [LIVE-2]; losses [LIVE-1] not given"


# A METHOD ON A LIVE NETWORK


def training(stem, *defects, method_defects=(), layer="all", names=NAMES, **choices):
    """The specification's own training loop, with defects."""

    def live(run):
        method = variant(run.method, *method_defects) if method_defects else run.method
        state, rows, problems = method.init(run.n_tasks), [], []
        for step in run:
            problem = replace(live_problem(method, step, layer), plumbing=defects).on(step)
            rows.append(problem.observables(state))
            problems.append(problem)
            state = problem.step(state).state
        case = Case(tuple(problems), state, False, "")
        for defect in defects:
            rows = defect.replaces.get("descended", lambda case, rows: rows)(case, rows)
        return {name: [row[name] for row in rows] for name in names if name in rows[0]}

    name = "+".join(d.name for d in (*method_defects, *defects)) or "right"
    return Implementation(stem, name=name, live=live, **choices)


@pytest.mark.parametrize("stem", ["gradnorm", "uncertainty", "dwa", "cov", "equal"])
def test_a_right_training_loop_passes(stem):
    found = statuses(training(stem, names=(*NAMES, "losses", "jacobian", *METHODS[stem].tags)))
    assert set(found.values()) <= {"passed", "skipped"}
    live = {name: status for name, status in found.items() if name.startswith("check_live")}
    assert set(live.values()) == {"passed"}


DESCENTS = [
    d for d in plumbing.of("gradnorm") if d.equation != "LIVE-3" and d.name not in ("MissingTask", "WeightedRows")
]


@pytest.mark.parametrize("defect", DESCENTS, ids=lambda d: d.name)
def test_wrong_training_is_named(defect):
    found = diagnosed(training("gradnorm", defect))
    assert [c.name for c in found.candidates] == [f"{defect.name} [{defect.equation}]"], found.text


def test_heads_without_weights_are_the_method_s_own_defect():
    [heads] = [d for d in plumbing.DEFECTS if d.name == "HeadsUnweighted"]
    assert diagnosed(training("gradnorm", heads)).candidates[0].name == "HeadsUnweighted [GN-8]"
    assert heads in plumbing.of("a method without it")


def test_every_live_check_fails_for_a_defect():
    names = (*NAMES, "losses", "jacobian")
    failed = set()
    for name in ("SumForMean", "Accumulated", "MeanOfTasks"):
        found = statuses(training("gradnorm", named(name), names=names))
        failed |= {check for check, status in found.items() if status == "failed"}

    def restless(run, seen=[]):  # noqa: B006 - it remembers on purpose
        seen.append(0)
        return {"direction": [np.full(sum(a.size for a in live.shared), len(seen)) for live in run]}

    found = statuses(Implementation("gradnorm", name="restless", live=restless))
    failed |= {check for check, status in found.items() if status == "failed"}
    live = {name for name in found if name.startswith("check_live")}
    assert live <= failed


def test_a_method_s_defect_and_a_leak_are_named_together():
    wrong = [d for d in DEFECTS["gradnorm"] if d.name in ("InvertedRate", "MeanForSum")]
    found = diagnosed(training("gradnorm", named("LossGradLeaks"), method_defects=wrong))
    assert [c.name for c in found.candidates] == ["InvertedRate [GN-4] + MeanForSum [GN-5] + LossGradLeaks [LIVE-4]"]


@pytest.mark.parametrize("layer", ["last", "matrix"])
def test_the_layer_that_is_balanced_is_a_choice(layer):
    impl = training("gradnorm", layer=layer)
    assert diagnosed(impl).text == f"would pass if this choice were declared: LIVE-C1: layer = {layer!r}"
    declared = statuses(replace(impl, choices={"layer": layer}))
    assert set(declared.values()) <= {"passed", "skipped"}


# THE DOORS


def test_a_live_run_needs_a_direction():
    results = check_implementation(
        Implementation("gradnorm", name="mute", live=lambda run: {"weights": [1] * len(run)})
    )
    assert {r.status for r in results} == {"unusable"}
    assert "gives no direction, without which gradnorm cannot be judged" in results[0].message


def test_a_live_run_hands_over_no_answers():
    seen = []

    def live(run):
        seen.append(run)
        return {"direction": [np.zeros(1) for _ in run]}

    check_implementation(Implementation("gradnorm", name="curious", live=live), select=["LIVE-4"])
    fields = {name for run in seen for step in run for name in vars(step)}
    assert not fields & {"losses", "jacobian", "expected"}
    assert all(len(run) == 4 and run.n_tasks == len(run.steps[0].kinds) for run in seen)


def test_writing_into_a_network_is_noticed():
    def step(live, state):
        live.shared[0][:] = 0.0
        return {"jacobian": measured(live).jacobian}

    results = check_implementation(Implementation("jacobian", name="writer", step=step))
    assert "writer wrote into its arguments" in results[0].message


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"layer": "first"}, "layer = 'first' must be 'all' or 'last' or 'matrix'"),
        ({"least": 0}, "least must be a whole number of at least 1; it is 0"),
    ],
)
def test_the_kit_s_own_choices_are_checked(choices, message):
    with pytest.raises(MtlrefError, match=message):
        Implementation("gradnorm", name="x", live=lambda run: {}, choices=choices)


def test_fewer_tasks_than_it_takes_are_not_asked_for():
    counts = set()

    def step(problem, state):
        counts.add(problem.n_tasks)
        return {"w_next": problem.step(state).terms["w_next"]}

    impl = Implementation("gradnorm", name="two at least", step=step, choices={"least": 2})
    assert set(statuses(impl).values()) <= {"passed", "skipped"}
    assert min(counts) == 2
