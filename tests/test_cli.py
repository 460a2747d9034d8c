"""The command line as a user meets it: output, exit status, one clear line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import mtlref
from mtlref.audit.run import LOGS
from mtlref.cli import main
from mtlref.settings import build, parse


def call(capsys, *words):
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def test_the_exit_status_says_whether_the_run_follows_the_method(capsys):
    assert call(capsys, "audit", "example:torch-loop")[0] == 0
    assert call(capsys, "audit", "example:gradnorm-pytorch")[0] == 1


def test_a_verdict_as_json(capsys):
    status, out, err = call(capsys, "audit", "example:gradnorm-pytorch", "--json")
    verdict = json.loads(out)
    assert (status, err) == (1, "")
    assert verdict["first"]["step"] == 1
    assert [d["name"] for d in verdict["diagnosis"]["explanations"][0]["defects"]] == ["InvertedRate", "MeanForSum"]


def test_settings_and_patterns_from_the_command_line(capsys, tmp_path):
    text = (LOGS / "torch-loop.csv").read_text(encoding="utf-8")
    path = tmp_path / "mine.csv"
    path.write_text(text.replace("loss/", "train.").replace("norm/", "g_").replace("weight/", "w "), encoding="utf-8")
    patterns = ("--losses", "train.*", "--norms", "g_*", "--weights", "w *", "--method", "gradnorm")
    assert call(capsys, "audit", str(path), *patterns, "--set", "alpha=1.5", "--set", "lr=0.025")[0] == 0
    assert call(capsys, "audit", str(path), *patterns, "--set", "alpha=0.5")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit", "no-such-file.csv", "--method", "dwa"], "no-such-file.csv"),
        (["audit", "example:none"], "there is no such example"),
        (["audit", "example:torch-loop", "--norms", "n/*"], "n/*"),
        (["audit", "example:torch-loop", "--set", "alpha"], "a setting is name=value"),
        (["audit", "example:torch-loop", "--set", "alpha=-1"], "alpha = -1.0 must not be negative"),
        (["audit", "example:torch-loop", "--set", "gamma=1"], "has no setting 'gamma'"),
        (["explain", "gradnorm", "--losses", "1,0"], "GN-3 divides by initial_losses[1] = 0.0"),
        (["explain", "gradnorm", "--losses", "1,2", "--norms", "1,2,3"], "jacobian must have one row a task, 2"),
        (["explain", "dwa", "--set", "temperature=0"], "temperature = 0.0 must be above 0"),
        (["explain", "nothing"], "'nothing' is neither a method (equal, "),
        (["explain", "GN-99"], "no function of mtlref computes GN-99"),
        (["explain", "GN-E2"], "errata are told in the derivations"),
        (["explain", "QP-6", "--losses", "1,2"], "no method's step shows QP-6 by itself"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(capsys, words, message):
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("mtlref: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"], ["explain", "--help"], ["--version"]])
def test_help_is_there(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert "mtlref" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nothing"], ["explain", "gradnorm", "--losses", "a,b"], ["audit"]])
def test_a_word_that_is_off_is_status_2(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("stem", list(mtlref.METHODS))
def test_explain_shows_every_tagged_equation_with_numbers(capsys, stem):
    settings = {"fixed": ["weights=[1, 2, 3]"], "combination": ['stages=["cov", "gradnorm", "pcgrad"]']}.get(stem, [])
    words = ["--set", *settings] if settings else []
    status, out, _ = call(capsys, "explain", stem, *words)
    assert status == 0
    method = build(stem, parse(settings))
    for name, tag in {**method.tags, "head_weights": method.heads}.items():
        assert f"\n{tag}: " in out
        assert f"    {name} = " in out
    plain = json.loads(call(capsys, "explain", stem, "--json", *words)[1])
    assert {row["tag"] for row in plain["equations"]} == {*method.tags.values(), method.heads, method.start}


def test_explain_on_numbers_of_one_s_own_is_the_derivation_s_example(capsys):
    """derivations/gradnorm.md by hand: r = (12/7, 6/7, 3/7) and w(t+1) = (103, 96, 95)/98."""
    words = ["--set", "alpha=1", "--set", "lr=0.01", "--losses", "2,2,4", "--losses", "2,1,1"]
    words += ["--norms", "0,0,0", "--norms", "3,4,5", "--json"]
    plain = json.loads(call(capsys, "explain", "gradnorm", *words)[1])
    values = {row["name"]: row["value"] for row in plain["equations"]}
    np.testing.assert_allclose(values["r"], [12 / 7, 6 / 7, 3 / 7])
    np.testing.assert_allclose(values["w_next"], np.array([103, 96, 95]) / 98)


def test_explain_of_a_tag_shows_its_numbers_checks_and_defects(capsys):
    """The same example: Ḡ = 4 and r = (12/7, 6/7, 3/7), so that with α = 1 the targets are (48, 24, 12)/7."""
    words = ["--set", "alpha=1", "--losses", "2,2,4", "--losses", "2,1,1", "--norms", "0,0,0", "--norms", "3,4,5"]
    status, out, _ = call(capsys, "explain", "gn-4", *words)
    assert status == 0
    assert out.startswith("GN-4: target_i = ")
    for part in (
        "check_gradnorm_targets: ",
        "InvertedRate: ",
        "gradnorm.md, GN-4",
        "target = 6.857143  3.428571  1.714286",
    ):
        assert part in out
    assert "G_bar = " not in out
    plain = json.loads(call(capsys, "explain", "GN-4", "--json", *words)[1])
    assert [row["tag"] for row in plain["equations"]] == ["GN-4"]
    np.testing.assert_allclose(plain["equations"][0]["value"], np.array([48, 24, 12]) / 7)
    assert {d["name"] for d in plain["defects"]} == {"InvertedRate", "FactorForExponent"}


def test_explain_of_a_tag_that_no_step_shows_has_its_statement_alone(capsys):
    status, out, _ = call(capsys, "explain", "QP-6")
    assert status == 0
    assert out.startswith("QP-6: v_i = d·d − d·b_i")
    assert "At this step" not in out
    assert json.loads(call(capsys, "explain", "QP-6", "--json")[1])["derivation"] == "derivations/qp.md"


def test_the_module_is_the_command_and_a_closed_pipe_is_no_traceback():
    command = [sys.executable, "-m", "mtlref", "explain", "gradnorm"]
    whole = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert whole.stdout.startswith("GradNorm")
    cut = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    cut.stdout.close()
    assert cut.stderr.read() == b""
    cut.stderr.close()
    assert cut.wait() in (0, 2)


def test_importing_the_package_loads_no_scipy():
    code = "import sys, mtlref; sys.exit(any(name.split('.')[0] == 'scipy' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
