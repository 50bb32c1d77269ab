"""The map of scores of a study over a pretrained model, and the reasons for a trial, in `nas show`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from nas_cli.commands.search import only_to_beat
from nas_cli.render.score_map import colour
from nas_cli.render.screen import console
from search_spaces import parse_space
from studies.library.scores import Score, Scores, write_scores
from studies.reporting.dashboard_notes import trial_note
from studies.reporting.score_map import scores_of
from studies.reporting.study_note import study_note
from studies.study import Study
from studies.study.settings import StudySettings
from surgery.architecture.costs import cost
from tests.nas_cli.conftest import MICRO
from tests.nas_cli.test_json_keys import compare
from tests.scored_study import CACHE, W8, W32, kl_of, make_study

Nas = Callable[..., Result]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("hybrid") / "runs")


@pytest.fixture
def show(nas: Nas, study: Study, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `nas show` on the study in a terminal of some width."""

    def run(*args: object, width: int = 80, command: str = "show") -> str:
        monkeypatch.setattr(console, "_width", width)
        result = nas(command, study.name, *args, "--dir", study.folder.parent)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_map(show: Callable[..., str]) -> None:
    lines = show("--scores").splitlines()
    assert max(map(len, lines)) <= 80
    top = next(number for number, line in enumerate(lines) if line.startswith("layer"))
    assert lines[top].split() == ["layer", "mixer", "ffn"]
    assert lines[top + 1].split() == ["W", "32", "4", "W", "8", "4", "none", "dim", "64", "none"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[top + 2 :] if line[2:3].isdigit()}
    assert rows["0"] == ["F", *"·····"]  # a layer that is kept
    assert rows["2"] == ["F", ".0040", ".030", "2.50", ".250", "2.50"]
    points = {line.index(".") for line in lines if line[2:3].isdigit() and line[2] != "0"}
    assert len(points) == 1
    legend = " ".join(lines[-3:])
    assert "nats/token" in legend
    assert "16.4k held-out tokens" in legend
    assert "10%" in legend


def test_a_narrow_terminal_gets_the_parts_apart(show: Callable[..., str]) -> None:
    lines = show("--scores", width=30).splitlines()
    assert [line.split() for line in lines if line.startswith("layer")] == [
        ["layer", "mixer"],
        ["layer", "ffn"],
    ]
    assert all(len(line) <= 30 for line in lines if line[2:3].isdigit())


def test_colours_go_from_green_over_yellow_to_red() -> None:
    assert colour(1e-6) == colour(1e-3)
    assert colour(1.0) == colour(50.0)
    green, middle, red = (
        [int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in map(colour, (1e-3, 0.0316, 1))
    )
    assert green[1] > green[0] > 0
    assert min(middle[:2]) > 220
    assert red[0] > red[1]


def test_the_numbers(show: Callable[..., str]) -> None:
    data = json.loads(show("--scores", "--json"))
    compare("nas show STUDY --scores", data)
    assert (data["layout"], data["score_tokens"]) == ("FFFF", 16384)
    kls = {(item["layer"], item["part"], item["replacement"]): item["kl"] for item in data["scores"]}
    assert kls[3, "mixer", W8] == kl_of(3, W8)
    assert len(kls) == 3 * 5


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_the_plot(show: Callable[..., str], tmp_path: Path, kind: str) -> None:
    show("--scores", "--plot", tmp_path / f"map.{kind}")
    text = (tmp_path / f"map.{kind}").read_text(encoding="utf-8")
    assert ("nats/token" if kind == "svg" else "W 32 4") in text


def test_why_a_trial(show: Callable[..., str], study: Study) -> None:
    data = json.loads(show(2, "--json"))
    compare("nas show STUDY TRIAL", data, ("Standing", "Trial"))
    first, second, third = data["why"]
    assert (first["layer"], first["replacement"], first["rank"], first["layers"]) == (1, W8, 1, 3)
    assert (second["replacement"], second["rank"]) == (W32, 2)
    assert (third["part"], third["saves"][CACHE]) == ("ffn", 0)
    assert study.space.model is not None
    own = cost(study.space.model.architecture, CACHE)
    assert (
        own - sum(item["saves"][CACHE] for item in data["why"])
        == data["costs" if CACHE in data["costs"] else "metrics"][CACHE]
    )
    assert data["summed_kl"] == pytest.approx(sum(item["kl"] for item in data["why"]))
    text = show(2)
    assert "scores add up to 0.3940" in text
    assert "the design measured 0.5910" in text
    assert "W 32 4" in text
    assert "nothing is replaced" in show(0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--scores", 0), "applies to a whole study"),
        (("--scores", "--importances"), "together with --scores"),
    ],
)
def test_options_that_do_not_go_together(nas: Nas, study: Study, args: tuple[Any, ...], message: str) -> None:
    result = nas("show", study.name, *args, "--dir", study.folder.parent)
    assert result.exit_code == 2
    assert message in str(result.exception)


def test_no_scores(nas: Nas, tmp_path: Path) -> None:
    plain = Study.create("plain", parse_space(MICRO, "micro.yaml"), StudySettings(), tmp_path / "runs")
    result = nas("show", plain.name, "--scores", "--dir", plain.folder.parent)
    assert result.exit_code == 2
    assert "trains from scratch" in str(result.exception)
    early = make_study(tmp_path / "runs", scored=False)
    result = nas("show", early.name, "--scores", "--dir", early.folder.parent)
    assert result.exit_code == 2
    assert "no scores.json" in str(result.exception)
    shown = json.loads(nas("show", early.name, 2, "--json", "--dir", early.folder.parent).stdout)
    assert (shown["why"], shown["summed_kl"]) == (None, None)
    (early.folder / "scores.json").write_text('{"layer.1.mixer": {"keep": [0]}}')
    result = nas("show", early.name, "--scores", "--dir", early.folder.parent)
    assert result.exit_code == 2
    assert "every replacement" in str(result.exception)


def test_scores_at_answers_have_a_map_of_their_own(nas: Nas, tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs")
    scores = scores_of(study)
    assert scores is not None
    doubled = {key: Score(2 * item.mean, item.standard_error) for key, item in scores.kl.items()}
    write_scores(study.folder, Scores(scores.kl, doubled))
    first, second = nas("show", study.name, "--scores", "--dir", study.folder.parent).stdout.split(
        "held-out tokens"
    )
    assert ".250" in first
    assert ".500" in second
    assert "prompts of each retrieval task" in " ".join(second.split())
    text = nas("show", study.name, "--scores", "--json", "--dir", study.folder.parent).stdout
    items = json.loads(text)["scores"]
    assert items
    assert all(item["retrieval_kl"] == 2 * item["kl"] for item in items)
    result = nas("show", study.name, "--scores", "--plot", tmp_path / "map.png", "--dir", study.folder.parent)
    assert result.exit_code == 0
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_one_word_for_a_measured_design(nas: Nas, tmp_path: Path) -> None:
    """Nothing of a pretrained model is trained in a search, and nothing says so."""
    study = make_study(tmp_path / "runs")
    folder = study.folder
    states = json.loads(nas("show", folder, "--json").stdout)["states"]
    assert states == json.loads(nas("front", folder, "--json").stdout)["states"] == {"measured": 4}
    for trial in json.loads(nas("show", folder, "--json").stdout)["trials"]:
        assert trial["state"] == "measured"
    assert json.loads(nas("show", folder, 2, "--json").stdout)["state"] == "measured"
    study.write_front()
    for item in json.loads((folder / "front.json").read_text())["front"]:
        assert item["state"] == "measured"
    assert set(study.to_dataframe()["status"]) == {"measured"}
    page = tmp_path / "page.html"
    nas("report", folder, "-o", page)
    texts = [
        *(nas(*words).stdout for words in (("show", folder), ("show", folder, 2), ("front", folder))),
        trial_note(study, study.records()[2]), study_note(study), page.read_text(),
    ]  # fmt: skip
    for text in texts:
        assert "measured" in text
        assert not re.search(r"\btrained\b", text), text


def test_a_search_that_measured_only_designs_to_beat_says_so(study: Study) -> None:
    records = study.records()
    assert [record.baseline is None for record in records] == [False, False, True, True]
    assert only_to_beat(records) == only_to_beat([]) == ""
    assert only_to_beat(records[:2]).startswith("all 2 are designs to beat")
    assert only_to_beat(records[:1]).startswith("the only one is a design to beat")


def test_screens_and_notes_of_a_pretrained_model_name_no_training(
    study: Study, show: Callable[..., str]
) -> None:
    text = show()
    assert "of measuring" in text
    assert "stopping" not in text
    assert "stopping" not in study_note(study)
