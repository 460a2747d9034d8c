"""The vectors as they are committed: their form, what the methods answer, what is refused, what flags separate."""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections import Counter

import numpy as np
import pytest

from mtlref import vectors
from mtlref.autograd import jacobian, parameter
from mtlref.defects import DEFECTS, variant
from mtlref.methods import METHODS, NETWORKS
from mtlref.networks import Parameters
from mtlref.notation import DomainError, MtlrefError
from mtlref.vectors import replay

STEMS = vectors.stems()
ALL = [(stem, group, test) for stem in STEMS for group, test in vectors.cases(vectors.load(stem))]
ANSWERED = [entry for entry in ALL if entry[2]["result"] != "invalid"]
REFUSED = [entry for entry in ALL if entry[2]["result"] == "invalid"]

SHARE = 0.05
"""The share of a group's tolerance within which the package's own methods agree: 5e-14 where it is 1e-12."""


def named(entries):
    """Parameters of a test, with the vectors' ids."""
    return [pytest.param(*entry, id=f"{entry[0]}-{entry[2]['id']}") for entry in entries]


def answer(stem, group, test, *defects):
    """What a method, with defects, answers: every observable as arrays, one a step. Its own replay."""
    if stem in NETWORKS:
        return [network_answer(stem, group, test, *defects)]
    method = variant(replay.method(stem, group["parameters"]), *defects)
    given = {name: replay.numbers(value) for name, value in test["input"].items()}
    single = group["type"] == "step"
    K = len(given["losses"] if single else given["losses"][0])
    state = method.init(K)
    if "state" in given:
        state = replay.state_of(state, given["state"])
    read = {name: [value] if single else value for name, value in given.items() if name != "state"}
    rows = []
    for t in range(len(read["losses"])):
        now = {name: value[t] for name, value in read.items()}
        out = method.step(state, **now)
        row = {"weights": out.weights, "head_weights": out.head_weights, **out.terms}
        if "jacobian" in now:
            row["direction"] = np.sum(out.weights[:, None] * np.array(now["jacobian"]), axis=0)
        rows.append(row)
        state = out.state
    return rows


def network_answer(stem, group, test, *defects):
    """What a network, with defects, answers: the gradients' columns are found by numbering the parameters."""
    settings = {name: as_tuples(value) for name, value in group["parameters"].items()}
    network = variant(NETWORKS[stem](**settings), *defects)
    given = replay.numbers(test["input"])
    kinds = ("experts", "gates", "relations", "towers")
    sizes = [sum(1 for _ in numbers_in(given["parameters"][kind])) for kind in kinds]
    counter = iter(range(sum(sizes)))
    numbered = {kind: renumbered(given["parameters"][kind], counter) for kind in kinds}
    order = np.argsort(np.concatenate([a.ravel() for a in laid_out(network, numbered).flat]).astype(int))
    at = laid_out(network, given["parameters"])
    leaves = [parameter(array) for array in at.flat]
    terms = network.terms(at.rebuilt(leaves), given["x"])
    losses = [(out * np.array(delta)).sum() for out, delta in zip(terms["out"], given["delta"], strict=True)]
    row = {name: np.array([tensor.value for tensor in terms[name]]) for name in ("g", "f", "z", "a", "S", "out")}
    slopes = jacobian(losses, terms["S"])
    row |= {"E": terms["E"][0].value, "dS": np.array(slopes.blocks).swapaxes(0, 1)}
    parts = np.split(jacobian(losses, leaves).matrix[:, order], np.cumsum(sizes)[:-1], axis=1)
    return row | {f"d_{kind}": part for kind, part in zip(kinds, parts, strict=True)}


def laid_out(network, plain):
    """The parameters of a vector as the network lays them out."""
    K = len(plain["towers"])
    experts = [np.array(arrays) for arrays in zip(*plain["experts"], strict=True)]
    shared = [array if array.ndim == 3 else array[:, None, :] for array in experts]
    heads = [[np.array(array) for array in tower] for tower in plain["towers"]]
    for kind, common in (("relations", network.share_w), ("gates", network.share_gate)):
        matrices = [np.array(matrix) for matrix in plain[kind]]
        assert len(matrices) == (1 if common else K)
        if common:
            shared = [matrices[0], *shared]
        else:
            heads = [[matrix, *head] for matrix, head in zip(matrices, heads, strict=True)]
    return Parameters(tuple(shared), tuple(map(tuple, heads)))


def as_tuples(value):
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def numbers_in(value):
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    else:
        yield value


def renumbered(value, counter):
    return [renumbered(item, counter) for item in value] if isinstance(value, list) else next(counter)


def error(rows, name, group, test):
    """The largest error of an observable over the steps, in units of 1 or the largest entry."""
    expected = test["expected"][name]
    worst = 0.0
    for row, wanted in zip(rows, expected if group["type"] == "run" else [expected], strict=True):
        wanted = np.asarray(wanted)
        if np.shape(row[name]) != wanted.shape:
            return math.inf
        off = np.abs(row[name] - wanted).max() / max(1.0, np.abs(wanted).max()) if wanted.size else 0.0
        worst = max(worst, off if np.isfinite(off) else math.inf)
    return worst


def small():
    """A file with the first vector of GradNorm alone."""
    document = vectors.load("gradnorm")
    document["groups"] = [{**document["groups"][0], "tests": document["groups"][0]["tests"][:1]}]
    return document


# FORM


@pytest.mark.parametrize("stem", STEMS)
def test_a_file_meets_the_schema(stem):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(vectors.schema()).validate(vectors.load(stem))


def test_the_schema_is_closed():
    """Every object says which properties it has, and nothing may be added to a file at any place."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(vectors.schema())
    validator = jsonschema.Draft202012Validator(vectors.schema())
    document = small()
    assert validator.is_valid(document)
    places = [(), ("groups", 0), ("groups", 0, "parameters"), ("groups", 0, "tests", 0)]
    places += [("groups", 0, "tests", 0, *more) for more in (("input",), ("input", "state"), ("expected",))]
    for place in [*places, ("notes", "InvertedRate"), ("groups", 0, "tests", 0, "input", "state", "optimiser")]:
        changed = copy.deepcopy(document)
        at = changed
        for key in place:
            at = at[key]
        at["extra"] = 1
        assert not validator.is_valid(changed), place


def test_a_missing_field_and_a_nan_are_refused_by_the_schema():
    validator = pytest.importorskip("jsonschema").Draft202012Validator(vectors.schema())
    for change in (
        lambda test: test.pop("comment"),
        lambda test: test.update(result="acceptable"),
        lambda test: test.update(result="invalid"),
        lambda test: test["expected"].update(G_bar="NaN"),
        lambda test: test["expected"].pop("weights"),
    ):
        document = small()
        change(document["groups"][0]["tests"][0])
        assert not validator.is_valid(document)


def test_every_method_has_vectors():
    assert set(STEMS) == {*METHODS, *NETWORKS}


@pytest.mark.parametrize("stem", STEMS)
def test_ids_are_unique_and_counted(stem):
    document = vectors.load(stem)
    ids = [test["id"] for _, test in vectors.cases(document)]
    assert len(set(ids)) == len(ids) == document["number_of_tests"]


@pytest.mark.parametrize("stem", NETWORKS)
def test_every_size_of_a_network_and_both_results_are_there(stem):
    """K = 1, 2, 3, 4, 8; a batch of one; more scenarios than experts and fewer; something to refuse."""
    tests = [(group["parameters"], test) for s, group, test in ANSWERED if s == stem]
    assert {1, 2, 3, 4, 8} <= {len(sizes["towers"]) for sizes, _ in tests}
    assert {-1, 1} <= {int(np.sign(sizes["n_experts"] - len(sizes["towers"]))) for sizes, _ in tests}
    assert 1 in {len(test["input"]["x"]) for _, test in tests}
    assert any(s == stem for s, _, _ in REFUSED)


@pytest.mark.parametrize("stem", METHODS)
def test_every_size_and_both_results_are_there(stem):
    """K = 1, 2, 3, 4, 8; a run of eight steps or more; something to refuse; with a Jacobian, D below and above K."""
    tests = [test for s, group, test in ANSWERED if s == stem and group["type"] == "step"]
    assert {1, 2, 3, 4, 8} <= {len(test["input"]["losses"]) for test in tests}
    shapes = [np.shape(test["input"]["jacobian"]) for test in tests if "jacobian" in test["input"]]
    assert not shapes or {-1, 1} <= {int(np.sign(D - K)) for K, D in shapes}
    runs = [len(test["input"]["losses"]) for s, group, test in ANSWERED if s == stem and group["type"] == "run"]
    assert max(runs) >= 8
    assert any(s == stem for s, _, _ in REFUSED)


# ANSWERS


@pytest.mark.parametrize(("stem", "group", "test"), named(ANSWERED))
def test_the_method_agrees(stem, group, test):
    rows = answer(stem, group, test)
    for name in test["expected"]:
        assert error(rows, name, group, test) <= SHARE * group["tolerance"], name


@pytest.mark.parametrize(("stem", "group", "test"), named(REFUSED))
def test_what_is_invalid_is_refused(stem, group, test):
    with pytest.raises(MtlrefError) as caught:
        answer(stem, group, test)
    for name in test["expected"].keys() - {"step"}:
        assert getattr(caught.value, name) == test["expected"][name], str(caught.value)


@pytest.mark.parametrize(("stem", "group", "test"), named(e for e in REFUSED if "step" in e[2]["expected"]))
def test_a_run_is_refused_at_its_last_step(stem, group, test):
    fine = {name: value[:-1] for name, value in test["input"].items() if name != "state"}
    assert len(answer(stem, group, {"input": {**test["input"], **fine}})) == test["expected"]["step"]


@pytest.mark.parametrize(
    ("stem", "id", "name", "by_hand"),
    [
        ("gradnorm", "hand-k3", "w_next", [103 / 98, 96 / 98, 95 / 98]),
        ("gradnorm", "tie-one-of-three", "dw", [-3.0, 0.0, 5.0]),
        ("dwa", "hand-k2", "w_next", [2 / (1 + math.exp(0.25)), 2 / (1 + math.exp(-0.25))]),
        ("dwa", "far-from-one-k2", "w_next", [1.0, 1.0]),
        ("cov", "hand-k2", "alpha", [0.4, 0.6]),
        ("cov", "first-k3", "weights", [1 / 3] * 3),
        ("pcgrad", "hand-k2", "coefficients", [[1.0, 0.5], [1.0, 1.0]]),
        ("pcgrad", "antiparallel", "direction", [0.0, 0.0]),
        ("pe_ltr", "hand-k2", "w_next", [0.8, 0.2]),
        ("pe_ltr", "duplicates", "gram", [[5.0, 5.0, -1.5], [5.0, 5.0, -1.5], [-1.5, -1.5, 5.25]]),
        ("uncertainty", "hand-k2", "s_next", [1 / 40, -1 / 80]),
        ("fixed", "same-k3", "weights", [0.5, 0.5, 0.5]),
        ("equal", "step-k3", "weights", [1.0, 1.0, 1.0]),
        ("combination", "hand-k2", "weights", [4 / 3, 2 / 3]),
        ("combination", "hand-strengths-k2", "weights", [8 / 31, 54 / 31]),
        ("combination", "hand-pcgrad-k2", "weights", [2.0, 4 / 3]),
        ("hmoe", "hand-k2", "out", [[[-1.75]], [[-1.75]]]),
        ("hmoe", "hand-k2", "d_relations", [[7.25, -7.25, 0, 0], [0, 0, 7.25, -7.25]]),
        ("hmoe", "hand-k2", "d_towers", [[2.5, 0.5, 0, 0], [0, 0, 2.5, 0.5]]),
        ("hmoe", "hand-k2", "d_experts", [[1, 0.5], [-2, -1]]),
        ("hmoe", "hand-k2", "dS", [[[[0.5]], [[0]]], [[[0]], [[0.5]]]]),
    ],
)  # fmt: skip
def test_answers_by_hand(stem, id, name, by_hand):
    (found,) = [test for s, _, test in ALL if s == stem and test["id"] == id]
    np.testing.assert_allclose(found["expected"][name], by_hand, rtol=1e-15, atol=1e-16)


# FLAGS


OF_A_FLAG = 4
"""How many vectors of a flag are looked at here; the generator's own test writes every flag anew."""


@pytest.mark.parametrize("stem", STEMS)
def test_the_flags_separate(stem):
    """A flagged defect is off by more than the separation, and far more than the tolerance, where its note says."""
    notes = vectors.load(stem)["notes"]
    known = {defect.name: defect for defect in DEFECTS[stem]}
    seen = Counter()
    for s, group, test in ANSWERED:
        for flag in test["flags"]:
            if s != stem or notes[flag]["kind"] != "defect" or seen[flag] == OF_A_FLAG:
                continue
            try:
                with np.errstate(all="ignore"):
                    rows = answer(stem, group, test, known[flag])
            except (MtlrefError, ArithmeticError, np.linalg.LinAlgError):
                continue
            seen[flag] += 1
            worst = max(error(rows, name, group, test) for name in notes[flag]["shows_in"])
            assert worst > group["separation"] >= 1e3 * group["tolerance"], (test["id"], flag)


@pytest.mark.parametrize("stem", STEMS)
def test_every_defect_is_flagged_and_every_flag_noted(stem):
    notes = vectors.load(stem)["notes"]
    used = {flag for s, _, test in ALL if s == stem for flag in test["flags"]}
    assert used == set(notes)
    assert {name for name, note in notes.items() if note["kind"] == "defect"} == {
        defect.name for defect in DEFECTS[stem]
    }


@pytest.mark.parametrize("stem", STEMS)
def test_a_mandatory_observable_shows_every_defect_that_moves_the_weights(stem):
    """A defect that shows elsewhere only breaks a term from which no weight is made, or the heads' weights."""
    document = vectors.load(stem)
    for name, note in document["notes"].items():
        if note["kind"] == "defect" and note["shows_in"] != document["mandatory"]:
            assert len(note["shows_in"]) == 1, name
            assert note["shows_in"][0] not in document["mandatory"], name


# LOADING AND THE COMMAND


def run(capsys, *words):
    """The command's output."""
    parser = argparse.ArgumentParser()
    vectors.add_arguments(parser)
    arguments = parser.parse_args(words)
    assert arguments.run(arguments) == 0
    return capsys.readouterr().out


def test_export_copies_the_bytes(tmp_path):
    paths = vectors.export(tmp_path / "new" / "folder")
    assert {path.name for path in paths} == {"schema.json", *(f"{stem}.json" for stem in STEMS)}
    assert (tmp_path / "new" / "folder" / "dwa.json").read_text(encoding="utf-8") == vectors.text_of("dwa")
    chosen = vectors.export(tmp_path / "one", "dwa")
    assert [path.name for path in chosen] == ["dwa.json", "schema.json"]


def test_export_to_a_file_is_a_named_error(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(MtlrefError, match="cannot be written to"):
        vectors.export(tmp_path / "taken")


@pytest.mark.parametrize("read", [vectors.load, vectors.text_of, lambda stem: vectors.export("unused", stem)])
def test_an_unknown_method_is_a_named_error(read):
    with pytest.raises(DomainError, match="'schema' has no vectors"):
        read("schema")


def test_the_command_counts_lists_prints_and_writes(capsys, tmp_path):
    counts = json.loads(run(capsys, "--json"))
    assert list(counts) == list(STEMS)
    assert sum(row["tests"] for row in counts.values()) == len(ALL)
    assert run(capsys).count("\n") == len(STEMS) + 1
    assert "hand-k3" in run(capsys, "gradnorm")
    assert json.loads(run(capsys, "dwa", "--json")) == vectors.load("dwa")
    assert run(capsys, "dwa", "--out", str(tmp_path)).split() == [
        str(tmp_path / n) for n in ("dwa.json", "schema.json")
    ]


def test_a_state_with_an_unknown_field_is_a_named_error():
    method = replay.method("dwa", {"temperature": 2.0})
    with pytest.raises(DomainError, match="no field momentum"):
        replay.state_of(method.init(2), {"weights": [1.0, 1.0], "momentum": 0.9})
    with pytest.raises(DomainError, match="'nothing' is not known"):
        replay.method("nothing", {})
