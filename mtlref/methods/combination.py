"""Combination: several methods at once, each on raw losses, their weights multiplied, one aggregator last.

No paper defines it. It is built from what is known of its parts, and its laws are proved in the derivation.

Every loss-level stage reads the raw losses (COMB-1) and, if it reads gradients, the raw ones (COMB-2), whatever the
others do. The weights of each are brought to a sum of K (COMB-3), multiplied, each with its strength as exponent
(COMB-4), and the product is brought to a sum of K (COMB-5). An aggregator, PCGrad or PE-LTR, reads the weighted
gradients (COMB-6) and gives coefficients (COMB-7); with them the weights are those in use on the shared parameters
(COMB-8). The heads have one task each and get the loss-level weights (COMB-9). The state holds the weights to come
where they are known (COMB-10).

Derivation: derivations/combination.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Cadence, Method, Reads, Step, same_tasks, weights_of
from mtlref.methods.equal import EqualWeights
from mtlref.methods.gradnorm import GradNorm
from mtlref.methods.pcgrad import PCGrad
from mtlref.methods.pe_ltr import PELTR
from mtlref.methods.stages import AGGREGATORS, EQUALISERS, Stage, all_tags, cadence_of, names, refuse
from mtlref.notation import Array, DomainError, count, equation, matrix, not_finite, require, vector
from mtlref.state import State


@dataclass(frozen=True, eq=False)
class CombinationState(State):
    """What a combination remembers.

    `weights` (K,): those of the step to come, or of the last one (COMB-10); no step reads them. `loss_sums` (K,) and
    `steps`: the sum of the raw losses over the steps of the epoch so far, and their number; both stay 0 without
    `epoch_steps`. `stages`: the state of each stage, the aggregator's last.
    """

    weights: Array
    loss_sums: Array
    steps: int
    stages: tuple[State, ...]


@dataclass(frozen=True, init=False)
class Combination(Method):
    """A combination of methods (COMB-1 … COMB-10): `Combination(DWA(), Stage(GradNorm(), 0.5), PCGrad())`.

    `stages`: methods, or `Stage`s with a strength: loss-level ones in any order, at most one of them GradNorm or
    Uncertainty Weighting with a strength other than 0, and then PCGrad or PE-LTR if there is an aggregator. Without a
    loss-level stage, equal weights take its place.
    `epoch_steps` (COMB-C2): the number of steps after which a stage that steps once an epoch does so, on the mean of
    the losses; needed where such a stage meets one that steps every time.
    Errors: DomainError for a combination that is not defined, with the reason.
    """

    stages: tuple[Stage, ...]
    epoch_steps: int | None

    stem: ClassVar[str] = "combination"
    title: ClassVar[str] = "Combination"
    source: ClassVar[str] = "our definition: the seed's heading and the literature give none"
    reads: ClassVar[Reads] = "gram"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {
        "seen": "COMB-1",
        "scale": "COMB-2",
        "u": "COMB-3",
        "product": "COMB-4",
        "loss_weights": "COMB-5",
        "factor": "COMB-6",
        "c": "COMB-7",
        "w": "COMB-8",
        "w_next": "COMB-10",
    }
    """The combination's own terms. One with its stages has theirs in between: `dwa.ratio`, `gradnorm.G`, …"""
    start: ClassVar[str] = "COMB-10"
    heads: ClassVar[str] = "COMB-9"

    def __init__(self, *stages: Method | Stage, epoch_steps: int | None = None) -> None:
        every = tuple(stage if isinstance(stage, Stage) else Stage(stage) for stage in stages)
        if all(isinstance(stage.method, AGGREGATORS) for stage in every):
            every = (Stage(EqualWeights()), *every)
        refuse(every)
        reads: tuple[Reads, ...] = ("losses", "norms", "gram")
        for name, value in (
            ("stages", every),
            ("epoch_steps", epoch_steps),
            ("cadence", cadence_of(every, epoch_steps)),
            ("reads", max((stage.method.reads for stage in every), key=reads.index)),
            ("tags", all_tags(every, self.tags)),
        ):
            object.__setattr__(self, name, value)

    @property
    def aggregator(self) -> Method | None:
        """The aggregator, if there is one."""
        last = self.stages[-1].method
        return last if isinstance(last, AGGREGATORS) else None

    @property
    def loss_level(self) -> tuple[Stage, ...]:
        """The stages before the aggregator."""
        return self.stages if self.aggregator is None else self.stages[:-1]

    @property
    def lagged(self) -> bool:
        """Whether the weights in use come from earlier steps alone: those of every stage do."""
        return all(stage.method.lagged for stage in self.stages)

    def sample(self, rng: np.random.Generator, n_tasks: int) -> Array | None:
        """Return the draw of the aggregator, `draw`: PCGrad's orders; None without one that draws."""
        return None if self.aggregator is None else self.aggregator.sample(rng, n_tasks)

    def init(self, n_tasks: int) -> CombinationState:
        """Return the state before the first step: that of every stage."""
        K = count("n_tasks", n_tasks)
        states = tuple(stage.method.init(K) for stage in self.stages)
        w = self._ahead(states)
        return CombinationState(state_weights(w, w, True), np.zeros(K), 0, states)

    def step(
        self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None, draw: ArrayLike | None = None
    ) -> Step:
        """Return the weights in use now and the next state, from losses (K,), the Jacobian (K, D) and a draw.

        `draw` is the aggregator's. Errors: ShapeError, DomainError, NonFiniteError; those of the stages as well.
        """
        # MEASURE
        known = same_tasks(state, CombinationState)[0]
        L, J = self._inputs(known, losses, jacobian)

        # STAGES
        seen, scale, outs = self._stages(known, L, J)

        # PRODUCT
        u, p, loss_weights = self._product([out.weights for out in outs])

        # AGGREGATE
        factor = aggregator_factor(loss_weights)
        last = self._aggregated(known, L, J, factor, draw)
        c = self._coefficients(np.ones(len(L)) if last is None else last.weights)
        w = weights_in_use(c, loss_weights)

        # NEXT
        outs = outs if last is None else [*outs, last]
        after = self._after(known, L, outs)
        w_next = state_weights(self._ahead(after.stages), w, self.lagged)
        own = self._terms(outs)
        own.update(zip(Combination.tags, (seen, scale, u, p, loss_weights, factor, c, w, w_next), strict=True))
        return Step(
            weights=w,
            head_weights=head_weights(loss_weights, w),
            state=CombinationState(w_next, after.loss_sums, after.steps, after.stages),
            terms={name: own[name] for name in self.tags},
        )

    def resumed(self, state: State, weights: Array) -> CombinationState:
        """Return `state` with the equaliser's own weights such that the product is `weights`; the rest stays.

        The group's inverse gives them: times (weights / those the states hold)^(1/β). Without an equaliser, or where
        a weight of 0 hides it, nothing can be said of the stages.
        """
        known = same_tasks(state, CombinationState)[0]
        w, held = vector("weights", weights, len(known.weights)), self._ahead(known.stages)
        strong = [stage.strength != 0 and isinstance(stage.method, EQUALISERS) for stage in self.loss_level]
        if True not in strong or np.any(np.sign(w) != np.sign(held)):
            return replace(known, weights=w)
        m = strong.index(True)
        stage, before = self.stages[m], known.stages[m]
        with np.errstate(over="ignore", under="ignore"):
            own = weights_of(before) * (w / np.where(held > 0, held, 1.0) + (held == 0)) ** (1 / stage.strength)
        if not np.isfinite(own).all() or not own.all():
            return replace(known, weights=w)
        own = stage_weights(own, stage.method.stem) if isinstance(stage.method, GradNorm) else own
        states = (*known.stages[:m], stage.method.resumed(before, own), *known.stages[m + 1 :])
        return replace(known, weights=w, stages=states)

    def followed(self, state: State, terms: Mapping[str, ArrayLike]) -> CombinationState:
        """Return the `state` after a step as it would be had that step given `terms`.

        A stage's own terms count where they are given; else the product of all, by the group's inverse.
        """
        known = same_tasks(state, CombinationState)[0]
        rows = list(zip(names(self.stages), self.stages, known.stages, strict=True))
        own = [{term: terms[f"{name}.{term}"] for term in stage.method.tags if f"{name}.{term}" in terms}
               for name, stage, _ in rows]  # fmt: skip
        if not any(own):
            return super().followed(known, terms)  # type: ignore[return-value]
        pairs = zip(rows, own, strict=True)
        states = tuple(stage.method.followed(before, given) for (_, stage, before), given in pairs)
        return replace(known, stages=states)

    def _inputs(
        self, known: CombinationState, losses: ArrayLike, jacobian: ArrayLike | None
    ) -> tuple[Array, Array | None]:
        """Return the checked losses (K,) and Jacobian (K, D), and check what of the state the stages do not."""
        K = len(known.weights)
        L = vector("losses", losses, K, "COMB-1")
        vector("state.loss_sums", known.loss_sums, K, "COMB-1")
        at_most = 0 if self.epoch_steps is None else self.epoch_steps - 1
        if count("state.steps", known.steps, 0) > at_most:
            message = f"state.steps = {known.steps!r} must be at most {at_most}, the steps of an epoch that goes on"
            raise DomainError(message, argument="state.steps", value=known.steps, equation="COMB-1")
        if len(known.stages) != len(self.stages):
            message = f"state.stages must hold one state a stage, {len(self.stages)}; it holds {len(known.stages)}"
            raise DomainError(message, argument="state.stages", value=len(known.stages))
        tag = "COMB-2" if self.aggregator is None else "COMB-6"
        if jacobian is None and self.reads != "losses":
            message = f"{tag} needs the Jacobian; jacobian is None"
            raise DomainError(message, argument="jacobian", equation=tag)
        return L, None if jacobian is None else matrix("jacobian", jacobian, K, tag)

    def _stages(self, known: CombinationState, L: Array, J: Array | None) -> tuple[Array, Array, list[Step]]:
        """Return the losses and the factors of the gradients that each loss-level stage reads, (M, K), and its step.

        `before` holds the product of the weights of the stages before it, which it does not look at.
        """
        rows, factors, outs, before = [], [], [], np.ones(len(L))
        for (name, stage), state in zip(self._named(), known.stages, strict=False):
            rows.append(seen_losses(L, known.loss_sums, known.steps, self._waits(stage), before))
            factors.append(seen_gradients(before))
            reads = None if J is None or stage.method.reads == "losses" else rescaled(J, factors[-1], "COMB-2")
            outs.append(stage.method.step(state, rows[-1], reads))
            before = before * stage_weights(outs[-1].weights, name)
        return np.array(rows), np.array(factors), outs

    def _product(self, weights: Sequence[Array]) -> tuple[Array, Array, Array]:
        """Return the stages' weights brought to a sum of K, (M, K), their product and the loss-level weights."""
        u = np.array([stage_weights(w, name) for (name, _), w in zip(self._named(), weights, strict=True)])
        p = product(u, np.array([stage.strength for stage in self.loss_level]))
        return u, p, loss_level_weights(p)

    def _aggregated(
        self, known: CombinationState, L: Array, J: Array | None, factor: Array, draw: ArrayLike | None
    ) -> Step | None:
        """Return the aggregator's step on the gradients times `factor`, if there is one."""
        method: Any = self.aggregator
        drawn = {} if draw is None else {"draw": draw}
        if drawn and not isinstance(method, PCGrad):
            raise DomainError("draw is for PCGrad, and no stage is PCGrad", argument="draw", equation="COMB-7")
        if method is None or J is None:
            return None
        out: Step = method.step(known.stages[-1], L, rescaled(J, factor, "COMB-6"), **drawn)
        return out

    def _coefficients(self, omega: Array) -> Array:
        """Return the coefficients of an aggregator's weights (K,), ones where there is no aggregator."""
        return coefficients(omega, isinstance(self.aggregator, PELTR))

    def _ahead(self, states: Sequence[State]) -> Array:
        """Return the weights that follow from those that the stages' states hold (K,)."""
        held = [weights_of(state) for state in states]
        loss_weights = self._product(held[: len(self.loss_level)])[2]
        c = self._coefficients(np.ones(len(held[0])) if self.aggregator is None else held[-1])
        return weights_in_use(c, loss_weights)

    def _after(self, known: CombinationState, L: Array, outs: Sequence[Step]) -> CombinationState:
        """Return the state after the stages' steps; a stage that waits for the end of the epoch keeps its own."""
        steps = known.steps + 1
        ends = self.epoch_steps is None or steps == self.epoch_steps
        rows = zip(self.stages, known.stages, outs, strict=True)
        states = tuple(before if self._waits(stage) and not ends else out.state for stage, before, out in rows)
        sums = np.zeros(len(L)) if ends else known.loss_sums + L
        return CombinationState(known.weights, sums, 0 if ends else steps, states)

    def _waits(self, stage: Stage) -> bool:
        """Return whether `stage` steps on the means of `epoch_steps` steps (COMB-C2)."""
        return self.epoch_steps is not None and stage.method.cadence == "epoch"

    def _named(self) -> list[tuple[str, Stage]]:
        """Return the loss-level stages with their names."""
        return list(zip(names(self.stages), self.loss_level, strict=False))

    def _terms(self, outs: Sequence[Step]) -> dict[str, Array | float]:
        """Return the stages' own terms, each under its stage's name."""
        rows = zip(names(self.stages), outs, strict=True)
        return {f"{name}.{term}": value for name, out in rows for term, value in out.terms.items()}


def rescaled(J: Array, factor: Array, tag: str) -> Array:
    """Return the rows of J, each times its factor. Errors: NonFiniteError, with `tag`, beyond float64."""
    with np.errstate(over="ignore", under="ignore"):
        rows = factor[:, None] * J
    if not np.isfinite(rows).all():
        raise not_finite(tag, rows, {"jacobian": J, "factor": factor})
    return rows


# EQUATIONS


@equation
def seen_losses(L: Array, sums: Array, steps: int, waits: bool, before: Array) -> Array:
    """COMB-1: ℓ_i = L_i(t), the raw loss; for a stage that waits for the epoch's end, its mean over the epoch so far.

    `L`, `sums` (K,), `steps` ≥ 0 of the epoch before this one, `before` (K,), what the stages before have made of the
    weights, which does not count; returns (K,).
    """
    return (sums + L) / (steps + 1) if waits else L


@equation
def seen_gradients(before: Array) -> Array:
    """COMB-2: s_i = 1: a loss-level stage reads the raw gradients s_i ∇L_i, and knows no weights but its own.

    `before` (K,), what the stages before have made of the weights, which does not count; returns (K,).
    """
    return np.ones(len(before))


@equation
def stage_weights(weights: Array, name: str) -> Array:
    """COMB-3: u_i = K w_i / Σ_j w_j, with w the weights of a stage.

    `weights` (K,), at least 0, `name` the stage's; returns (K,) with sum K. Errors: DomainError for a weight below 0,
    or if all are 0.
    """
    require(weights >= 0, f"{name}.weights", weights, "COMB-3", "takes weights of at least 0, not")
    if not weights.any():
        message = f"COMB-3 divides by Σ w = 0: all {name}.weights are 0"
        raise DomainError(message, argument=f"{name}.weights", task=0, value=0.0, equation="COMB-3")
    share = weights / np.max(weights)
    return len(share) * (share / np.sum(share))


@equation
def product(u: Array, strengths: Array) -> Array:
    """COMB-4: p_i = Π_m (u_i^(m))^β_m, 0⁰ = 1.

    `u` (M, K), a row a stage, `strengths` (M,), the β; returns (K,). Errors: DomainError for a weight of 0 with a
    strength below 0.
    """
    for row in u[strengths < 0]:
        require(row > 0, "u", row, "COMB-4", "inverts weights above 0, not")
    return np.asarray(np.prod(u ** strengths[:, None], axis=0))


@equation
def loss_level_weights(p: Array) -> Array:
    """COMB-5: λ_i = K p_i / Σ_j p_j.

    `p` (K,), at least 0; returns (K,) with sum K. Errors: DomainError if every task has a weight of 0 in some stage.
    """
    total = float(np.sum(p))
    if total == 0:
        message = "COMB-5 divides by Σ p = 0: every task has a weight of 0 in some stage"
        raise DomainError(message, argument="product", task=0, value=float(p[0]), equation="COMB-5")
    return len(p) * (p / total)


@equation
def aggregator_factor(loss_weights: Array) -> Array:
    """COMB-6: f_i = λ_i: the aggregator reads the weighted gradients λ_i ∇L_i.

    `loss_weights` (K,); returns (K,).
    """
    return loss_weights


@equation
def coefficients(omega: Array, sums_to_one: bool) -> Array:
    """COMB-7: c = K ω for PE-LTR, whose ω sum to 1; c = ω for PCGrad; c = 1 without an aggregator.

    `omega` (K,), the aggregator's weights of the weighted gradients; returns (K,). Ones are the plain sum.
    """
    return len(omega) * omega if sums_to_one else omega


@equation
def weights_in_use(c: Array, loss_weights: Array) -> Array:
    """COMB-8: w_i = c_i λ_i, so that d = Σ_i c_i (λ_i ∇L_i).

    Both (K,); returns (K,).
    """
    return c * loss_weights


@equation
def head_weights(loss_weights: Array, w: Array) -> Array:
    """COMB-9: h_i = λ_i: a head has one task and nothing to aggregate.

    `loss_weights`, `w` (K,); returns (K,).
    """
    return loss_weights


@equation
def state_weights(ahead: Array, w: Array, lagged: bool) -> Array:
    """COMB-10: w(t+1) by COMB-3 … COMB-8 of the weights that the stages' states hold; w(t) if a stage is not lagged.

    `ahead`, `w` (K,); returns (K,). The same of the stages' first states gives w(0).
    """
    return ahead if lagged else w
