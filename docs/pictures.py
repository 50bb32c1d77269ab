"""The pictures of the guides, from the studies of `make demo` and `make demo-pretrained`: `make pictures`."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from studies.analysis.hypervolume_growth import growth
from studies.analysis.standings import Standings
from studies.reporting.annotator import Annotator
from studies.reporting.dashboard import Dashboard
from studies.reporting.front_plot import plot_front
from studies.reporting.hypervolume_plot import plot_growth
from studies.reporting.score_map import ScoreMap, plot_maps
from studies.study import Study
from studies.study.trial_record import PAUSED
from tests.browser import CHROMIUM, screenshot

GUIDE = Path(__file__).parent / "guide"


def main(runs: Path) -> None:
    """Draw all of them."""
    demo = Study.open("demo", runs)
    plot_front(demo, Standings.of(demo), GUIDE / "front.png")
    plot_growth(
        demo.name, growth(demo.records(), demo.space.objectives, demo.space.proxy), GUIDE / "hypervolume.png"
    )
    plot_maps(ScoreMap.of(Study.open("demo-pretrained", runs)), GUIDE / "scores.png")
    if CHROMIUM is None:
        print("no screenshots: there is no Chromium on this machine")
        return
    Annotator(demo).update(last=True)
    served = Dashboard(demo, "127.0.0.1", 0)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    paused = next((record.number for record in demo.records() if record.state == PAUSED), 0)
    with tempfile.TemporaryDirectory() as profile:
        screenshot(f"{served.url}/note", GUIDE / "dashboard-note.png", Path(profile), "1400,880")
        trial = f"{served.url}/trials?numbers={paused}"
        screenshot(trial, GUIDE / "dashboard-trial.png", Path(profile), "1400,1800")
    served.server.shutdown()
    thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
