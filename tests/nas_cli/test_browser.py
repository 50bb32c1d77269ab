"""The dashboard and plots in headless Chromium: a person finds everything, and the console is empty."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from studies.analysis.pick import knee
from studies.analysis.standings import Standings
from studies.reporting.annotator import Annotator
from studies.reporting.dashboard import Dashboard
from studies.reporting.dashboard_notes import trial_note
from studies.reporting.folded_yaml import WIDTH
from studies.study import Study
from tests.browser import browse, needs_browser
from tests.nas_cli.test_dashboard import pause
from tests.picks import pick_trial
from tests.scored_study import make_study as make_scored

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def study(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy with a paused trial and a pick."""
    folder = tmp_path_factory.mktemp("browser") / "micro"
    shutil.copytree(study_folder, folder)
    study = Study.open(str(folder))
    pause(study)
    pick_trial(study, study.front()[0].number)
    Annotator(study).update(last=True)
    return study


@pytest.fixture(scope="module")
def url(study: Study) -> Iterator[str]:
    served = Dashboard(study, "127.0.0.1", 0)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    yield served.url
    served.server.shutdown()
    thread.join()


def test_errors_of_a_page_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text("<script>document.write('seen'); missing()</script>", encoding="utf-8")
    page = browse(path.as_uri(), tmp_path / "profile")
    assert "seen" in page.text
    assert "missing is not defined" in page.console[0]


def test_the_first_page_shows_the_front_its_layers_and_the_hypervolume(
    study: Study, url: str, tmp_path: Path
) -> None:
    page = browse(url, tmp_path)
    assert page.console == []
    titles = (
        "architectures are on the front",
        "layers of the front",
        "lead over the baselines",
        "which fields matter",
        "full attention",
        "loss curves",
        "that the front dominates",
    )
    for title in titles:
        assert title in page.text
    for name in ("on the front", "paused", "baseline", "knee", "picked", "val_loss (nats/token)"):
        assert name in page.text
    standings = Standings.of(study)
    shown = {f"#{row.record.number}" for row in standings.front if row.record.baseline is None}
    assert shown <= set(page.text.split())
    assert "{" not in page.text.partition("Study User Attributes")[2]


def test_the_note_names_front_baselines_and_paused_trials(study: Study, url: str, tmp_path: Path) -> None:
    page = browse(f"{url}/note", tmp_path)
    assert page.console == []
    standings = Standings.of(study)
    for row in standings.front:
        assert row.record.line in page.text
    record = knee(standings)
    assert record is not None
    assert f"{record.name} (knee" in page.text
    assert "picked" in page.text
    for text in ("Baselines", "#0 dense", "Paused at a rung", "Constraints", "Best of those that meet them"):
        assert text in page.text


def test_a_paused_trial_and_its_files(study: Study, url: str, tmp_path: Path) -> None:
    number = len(study.records()) - 1
    page = browse(f"{url}/trials?numbers={number}", tmp_path)
    assert page.console == []
    for text in ("Waiting", "paused at rung 1 of 1", "layers.svg", "pick.yaml", "val_bpb 2.5000 bits/byte"):
        assert text in page.text


def test_a_page_shows_the_text_of_the_point_under_the_mouse(
    study: Study, nas: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "front.html"
    nas("front", study.folder, "--plot", path)
    move = """<script>
    const [x, y] = points[0], to = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    svg.dispatchEvent(new MouseEvent("mousemove", {clientX: to.x, clientY: to.y}));
    </script>"""
    path.write_text(path.read_text(encoding="utf-8") + move, encoding="utf-8")
    page = browse(path.as_uri(), tmp_path / "profile")
    assert page.console == []
    text = page.html.partition('id="tip"')[2].partition("</div>")[0]
    assert any(record.line in text for record in study.records())
    assert "nats/token" in text


def test_a_plot_as_a_page(study: Study, nas: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "front.html"
    nas("front", study.folder, "--plot", path)
    assert path.stat().st_size < 1_000_000
    for number, flag in enumerate(("--force-dark-mode", "--blink-settings=preferredColorScheme=1")):
        page = browse(path.as_uri(), tmp_path / str(number), flag)
        assert page.console == []
        assert page.html.count("<svg") == 1


@pytest.mark.parametrize("width", [800, 1200, 1440])
@pytest.mark.parametrize("pretrained", [False, True])
def test_nothing_in_the_report_is_cut_off(
    study: Study, nas: Callable[..., Result], tmp_path: Path, width: int, pretrained: bool
) -> None:
    shown = make_scored(tmp_path / "runs") if pretrained else study
    path = tmp_path / "report.html"
    nas("report", shown.folder, "-o", path)
    check = """<script>
    const cut = [];
    for (const svg of document.querySelectorAll("figure svg")) {
      const box = svg.getBoundingClientRect();
      for (const text of svg.querySelectorAll("text")) {
        const inner = text.getBoundingClientRect();
        if (inner.left < box.left - 1 || inner.right > box.right + 1) cut.push(text.textContent);
      }
    }
    if (document.documentElement.scrollWidth > innerWidth) cut.push("the page is too wide");
    document.body.dataset.cut = JSON.stringify(cut);
    </script>"""
    path.write_text(path.read_text(encoding="utf-8") + check, encoding="utf-8")
    page = browse(path.as_uri(), tmp_path / "profile", f"--window-size={width},3000")
    assert page.console == []
    assert 'data-cut="[]"' in page.html
    assert page.html.count("<figure") > 4


def test_a_trial_fits_into_a_window_of_1400_pixels(study: Study, url: str, tmp_path: Path) -> None:
    for record in study.records():
        if record.architecture is not None:
            note = trial_note(study, record)
            assert max(map(len, note.partition("```yaml")[2].splitlines())) <= WIDTH
    page = browse(f"{url}/trials?numbers=0", tmp_path)
    assert "study note" in page.text
    assert "report" in page.text
