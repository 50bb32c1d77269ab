"""One spec, one module and one registry line make a mixer or a projection operator searchable, costed and
exported: nothing else in the project names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_new_mixer_and_operator_go_from_a_space_file_to_a_model_that_generates(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.toys", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    # counted from the specs, and by drawing: rank 1 without penalties, rank 4 with each of three
    assert result["combinations"][0] == result["combinations"][1]
    assert result["combinations"][0] % (2 * 2 * (1 + 3)) == 0
    assert result["warnings"] == [
        "bottleneck.penalty is idle in part of this space and not sampled there: rank 1 has none"
    ]
    assert {"F", "X"} == set(result["layout"])
    assert result["fits"] > 0
    assert result["transplanted"] == [i for i, letter in enumerate(result["layout"]) if letter == "X"]
    assert len(result["mixer_errors"]) == len(result["transplanted"])
    assert max(result["mixer_errors"]) < 1  # of a silent mixer
    assert result["params"][0] == result["params"][1]
    assert result["cache_bytes"][0] == result["cache_bytes"][1]
    assert result["layer_types"].count("linear_attention") == result["layout"].count("X")
    assert "bold red" in result["colours"]
    assert "bright_cyan" in result["colours"]
    assert result["features"] == 1
    assert result["same_logits"]
    assert result["generated_alike"]
