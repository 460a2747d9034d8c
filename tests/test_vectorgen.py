"""The generator of the vectors: what it writes is what is committed, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mtlref.notation import DomainError, MtlrefError
from mtlref.vectorgen import FOLDER, __main__, core, differences, flags, generate, recipes
from mtlref.vectorgen.core import Case, Group, VectorError
from mtlref.vectorgen.text import text

DWA = recipes()["dwa"]
INPUT = {"state": {"weights": [1.0, 1.0], "losses_prev": [2.0, 1.0]}, "losses": [1.0, 1.5]}


def made(case, recipe=DWA, **changed):
    """One vector of a group at the paper's temperature."""
    return core.test(recipe, Group("step", {"temperature": 2.0}, [case], **changed), case)


def test_the_committed_files_are_what_the_generator_writes():
    found = differences(generate(), FOLDER)
    assert not found, "\n".join(found)


def test_nothing_but_the_generator_s_files_is_in_the_folder():
    names = {path.name for path in FOLDER.glob("*.json")}
    assert names == {"schema.json", *(f"{stem}.json" for stem in recipes())}


def test_check_compares_and_says_what_differs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(__main__, "FOLDER", tmp_path)
    assert __main__.main(["--check", "equal"]) == 1
    assert "equal.json: is not there" in capsys.readouterr().out
    assert __main__.main(["equal"]) == 0
    assert __main__.main(["--check", "equal"]) == 0
    path = tmp_path / "equal.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"K = 3"', '"K = 5"'), encoding="utf-8")
    capsys.readouterr()
    assert __main__.main(["--check", "equal"]) == 1
    shown = capsys.readouterr().out
    assert "equal.json: differs" in shown
    assert '"K = 5"' in shown
    assert '"K = 3"' in shown


def test_an_unknown_method_ends_with_status_2(capsys):
    assert __main__.main(["nothing"]) == 2
    assert "'nothing' has no cases" in capsys.readouterr().err
    with pytest.raises(DomainError):
        generate(["nothing"])


def test_a_long_difference_is_cut_short():
    there = {"a.json": text({"x": [{"y": k} for k in range(90)]})}
    folder = FOLDER.parent / "no_such_folder"
    assert differences(there, folder) == ["a.json: is not there"]


# CASES


def test_a_flag_is_attached_where_it_separates():
    test = made(Case("one", "", INPUT, catches=("InvertedRatio",)))
    assert "InvertedRatio" in test["flags"]
    assert "HistoryOfOnes" not in test["flags"]
    assert test["result"] == "valid"


def test_a_flag_that_is_not_deserved_is_refused():
    with pytest.raises(MtlrefError, match="one demands HistoryOfOnes, which it does not separate"):
        made(Case("one", "", INPUT, catches=("HistoryOfOnes",)))


def test_a_flag_that_separates_by_too_little_is_refused():
    with pytest.raises(MtlrefError, match="InvertedRatio"):
        made(Case("one", "", INPUT, catches=("InvertedRatio",)), separation=1.0)


def test_an_expected_value_that_the_method_misses_is_refused():
    def wrong(parameters, state, given):
        found = DWA.step(parameters, state, given)
        return replace(found, terms={**found.terms, "ratio": [1, 1]})

    with pytest.raises(MtlrefError, match="the method itself misses ratio"):
        made(Case("one", "", INPUT), replace(DWA, step=wrong))


def test_an_answer_near_a_jump_is_refused_unless_it_is_an_edge_case():
    near = replace(DWA, step=lambda *given: replace(DWA.step(*given), gap=1e-6))
    with pytest.raises(VectorError, match="from a discontinuity"):
        made(Case("one", "", INPUT), near)
    assert "EdgeCase" in made(Case("one", "", INPUT, edge=True), near)["flags"]


def test_an_answer_that_hangs_on_a_choice_names_it():
    chosen = replace(DWA, step=lambda *given: replace(DWA.step(*given), decided=("DWA-C1",)))
    with pytest.raises(VectorError, match="hangs on DWA-C1"):
        made(Case("one", "", INPUT), chosen)
    assert made(Case("one", "", INPUT, choices=("DWA-C1",)), chosen)["result"] == "acceptable"


def test_a_defect_that_moves_the_weights_cannot_be_excepted():
    excepted = replace(DWA, elsewhere={"InvertedRatio": "ratio"})
    with pytest.raises(MtlrefError, match="InvertedRatio moves a mandatory observable"):
        made(Case("one", "", INPUT), excepted)


def test_an_expected_value_beyond_the_range_is_refused():
    with pytest.raises((VectorError, OverflowError)):
        core.rounded([1.0, math.inf])


# THE LINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["notes"].pop("EdgeCase"), "are used and have no note: EdgeCase"),
        (lambda d: d["notes"].update(Extra={}), "have a note and are not used: Extra"),
        (lambda d: d["groups"][0]["tests"].append(d["groups"][0]["tests"][0]), "ids are used twice"),
        (lambda d: d["groups"][0]["tests"][0]["flags"].extend(["MustRefuse"] * 2), "have a flag twice"),
        (lambda d: d.update(number_of_tests=1), "number_of_tests"),
    ],
)
def test_the_lint(change, message):
    document = json.loads((FOLDER / "equal.json").read_text(encoding="utf-8"))
    flags.lint(document, [])
    change(document)
    with pytest.raises(MtlrefError, match=message):
        flags.lint(document, [])


def test_the_lint_knows_the_defects():
    document = json.loads((FOLDER / "equal.json").read_text(encoding="utf-8"))
    with pytest.raises(MtlrefError, match="flagged in no vector: SumToOne"):
        flags.lint(document, ["SumToOne"])
    with pytest.raises(MtlrefError, match="do not exist: Renamed"):
        flags.lint(document, [], ["Renamed"])


# THE TEXT


def test_the_text_is_json_that_reads_back():
    document = {"a": [1.0, 0.1, 1e-5, 1e300], "b": {"c": [{"d": math.inf}, {"d": -math.inf}]}, "e": None, "f": "σ"}
    back = json.loads(text(document))
    assert back == {**document, "b": {"c": [{"d": "Infinity"}, {"d": "-Infinity"}]}}
    assert text({"a": math.nan}) == '{"a": "NaN"}\n'
