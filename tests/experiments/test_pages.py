"""The pages quote what the committed results hold, and the results are what the runs in them say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mtlref.experiments.command import NAMES, experiment_of, text
from mtlref.experiments.study import Run

PAGES = Path(__file__).parent.parent.parent / "derivations" / "experiments"

DONE = [name for name in NAMES if (PAGES / f"{name}.json").exists()]
"""The experiments whose results are committed."""


def result(name):
    return json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DONE)
def test_a_page_shows_its_result_and_its_figure(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"```text\n{text(result(name))}\n```" in page
    assert f"`mtlref reproduce {name}`" in page
    verdict = page.split("## Verdict\n\n")[1]
    assert verdict.startswith(f"**{result(name)['verdict'].capitalize()}.**")
    figure = PAGES / f"{name}.{experiment_of(name).formats}"
    assert f"({figure.name})" in page
    assert 5_000 < figure.stat().st_size < 400_000


def test_every_experiment_has_its_result_and_the_readme_its_verdict():
    assert tuple(DONE) == tuple(NAMES)
    readme = (PAGES.parent.parent / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in readme.splitlines() if line.startswith("| [") and "/experiments/" in line]
    told = {row[0].split("]")[0].removeprefix("| ["): row[2].split(":")[0] for row in rows}
    assert told == {name: result(name)["verdict"] for name in NAMES}


@pytest.mark.parametrize("name", DONE)
def test_the_result_is_that_of_the_default_settings_and_seeds(name):
    cls, found = experiment_of(name), result(name)
    assert found["settings"] == cls().plain()
    assert found["seeds"] == cls.seeds
    assert found["command"] == f"mtlref reproduce {name} --seeds {found['seeds']}"
    assert [(run["arm"], run["seed"]) for run in found["runs"]] == [
        (arm, seed) for arm in cls().arms for seed in range(found["seeds"])
    ]


@pytest.mark.parametrize("name", DONE)
def test_the_table_is_what_the_runs_say(name):
    found = result(name)
    checked = 0
    for row in found["table"]:
        for metric, cell in row.items():
            runs = [run[metric] for run in found["runs"] if run["arm"] == row["arm"] and metric in run]
            if isinstance(cell, dict) and runs:
                low, high = stats.t.interval(0.95, len(runs) - 1, loc=np.mean(runs), scale=stats.sem(runs) or 1e-300)
                np.testing.assert_allclose(
                    [cell["mean"], cell["low"], cell["high"]], [np.mean(runs), low, high], rtol=1e-9
                )
                checked += 1
            if name == "landscape-2d" and metric in ("x1", "x2", "L1", "L2", "steps"):
                (run,) = (run for run in found["runs"] if run["arm"] == row["arm"] and run["seed"] == 0)
                place = 1 + [other["start"] for other in found["table"]].index(row["start"])
                assert cell == run.get(f"start {place} {metric}")
                checked += 1
    assert checked >= len(found["table"])


@pytest.mark.parametrize("name", DONE)
def test_claims_and_verdict_follow_from_the_runs(name):
    found = result(name)
    runs = [
        Run(run["arm"], run["seed"], {k: v for k, v in run.items() if k not in ("arm", "seed")}, {})
        for run in found["runs"]
    ]
    summary = experiment_of(name)().summary(runs)
    assert summary.verdict == found["verdict"]
    for claim, written in zip(summary.claims, found["claims"], strict=True):
        assert (claim.says, claim.holds, claim.evidence) == (written["says"], written["holds"], written["evidence"])


@pytest.mark.parametrize("name", list(NAMES))
def test_a_page_without_a_result_says_so(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert (f"No result is committed yet. `mtlref reproduce {name}` makes it." in page) == (name not in DONE)
    assert ("## Verdict" in page) == (name in DONE)


def test_the_start_of_this_project_s_own_leaves_sigma_where_the_page_says():
    """uw-regression: 8.68 on the data of seed 0, and every σ2 at the end below the line's residual."""
    runs = result("uw-regression")["runs"]
    (own,) = (run["σ1 early"] for run in runs if (run["arm"], run["seed"]) == ("rate=0.001", 0))
    assert f"is {own:.2f} on these data" in (PAGES / "uw-regression.md").read_text(encoding="utf-8")
    assert all(run["σ2 end"] < run["line2"] for run in runs if "line2" in run)
