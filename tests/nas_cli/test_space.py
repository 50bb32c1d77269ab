"""`nas space`: presets and own files, shown, checked and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from nas_cli.commands import space
from search_spaces import load_space
from surgery.architecture import Architecture
from surgery.architecture.strip import plain_strip, strip_rows
from surgery.config.problems import UserError

Run = Callable[..., Result]

BROKEN = """\
backbone: {vocab_size: 2048, dim: 128, num_layers: 4, num_heads: 4, num_kv_heads: 3, ffn_dim: 384}
search: {hdpl.projections: {subset: [q, k]},
  hdpl.rnk: {choice: [8, 16]}}
objectives: {val_los: min}
"""


@pytest.fixture
def run() -> Run:
    app = typer.Typer()
    space.add_to(app)
    app.callback()(lambda: None)
    return lambda *args: CliRunner().invoke(app, ["space", *map(str, args)], catch_exceptions=False)


def test_list_names_presets_and_own_spaces(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(load_space("tiny").text)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    (tmp_path / "pick.yaml").write_text("layout: FFFF\n")
    monkeypatch.chdir(tmp_path)
    data = {item["name"]: item for item in json.loads(run("list", "--json").stdout)}
    assert {
        "tiny",
        "sprint",
        "hdpl",
        "hybrid",
        "pretrained",
        "pretrained-tiny",
        "mine.yaml",
        "broken.yaml",
    } == set(data)
    assert data["pretrained"]["needs_model"]
    assert data["mine.yaml"]["kind"] == "file"
    assert data["mine.yaml"]["settings"] == data["tiny"]["settings"]
    assert not data["broken.yaml"]["valid"]
    assert data["broken.yaml"]["problems"] == 4
    text = run("list").stdout
    assert "4 problems" in text
    assert "pick.yaml" not in text


def test_show_tells_size_costs_baselines_and_the_feasible_share(run: Run) -> None:
    data = json.loads(run("show", "tiny", "--json").stdout)
    loaded = load_space("tiny")
    assert data["size"]["settings"] == loaded.size().count
    assert set(data["search"]) == {name for name, item in loaded.search.items() if not item.fixed}
    low, median, high = (data["costs"]["params"][key] for key in ("min", "median", "max"))
    assert low < median < high
    assert data["baselines"]["dense"]["hash"] == loaded.baselines["dense"].hash
    assert 0 < data["feasible_share"] <= 1
    assert {"params", "decode_flops@1024", "cache_bytes@1024"} <= set(data["costs"])
    text = run("show", "tiny").stdout
    for word in ("hdpl.kl_weight", "median", "lt2-looped", "objectives", "bpe:1024"):
        assert word in text


def test_show_yaml_is_the_file_itself(run: Run) -> None:
    assert run("show", "hybrid", "--yaml").stdout == load_space("hybrid").text


def test_validate_warns_of_dead_knobs(run: Run) -> None:
    result = run("validate", "hdpl")
    assert result.exit_code == 0
    assert "valid" in result.stdout
    assert "kl_weight" in result.stderr


def test_validate_tells_every_problem_and_exits_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    result = run("validate", "tiny", path)
    assert result.exit_code == 2
    for word in ("line 1", "num_kv_heads", "hdpl.rank", "val_loss"):
        assert word in result.stderr
    as_json = run("validate", "tiny", path, "--json")
    good, bad = json.loads(as_json.stdout)
    assert as_json.exit_code == 2
    assert good["valid"]
    assert [item["line"] for item in bad["problems"]] == [1, 2, 3, 4]


def test_an_unknown_space_is_refused_with_the_nearest_name(run: Run) -> None:
    with pytest.raises(UserError, match='did you mean "tiny"'):
        run("show", "tinny")


def test_sample_is_the_same_for_the_same_seed_and_meets_the_constraints(run: Run) -> None:
    one, again, other = (
        json.loads(run("sample", "hybrid", "-n", 5, "--seed", seed, "--json").stdout) for seed in (3, 3, 4)
    )
    assert one == again
    assert not {item["hash"] for item in one} & {item["hash"] for item in other}
    assert len({item["hash"] for item in one}) == 5
    assert all(item["feasible"] for item in one)
    anything = json.loads(run("sample", "hybrid", "-n", 20, "--any", "--json").stdout)
    assert any(item["violations"] for item in anything)


def test_sample_draws_every_layer_and_writes_the_first(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "drawn.yaml"
    text = run("sample", "tiny", "--seed", 1, "-o", path).stdout
    drawn = Architecture.from_yaml(path)
    assert drawn.line in text
    for line in plain_strip(drawn).splitlines():
        assert line in text
    with pytest.raises(UserError, match="can't write the architecture"):
        run("sample", "tiny", "-o", tmp_path / "no" / "such.yaml")


def test_the_strip_shows_what_stands_where() -> None:
    rule = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 4, "rank": 8, "layers": "1-2"}
    backbone = load_space("tiny").backbone.to_dict()
    architecture = Architecture.from_dict({"backbone": backbone, "projections": [rule], "loop": {"count": 2}})
    assert plain_strip(architecture).splitlines() == [
        "mixer F F F F  ×2", "q     · ■ ■ ·", "k     · · · ·", "v     · · · ·", "o     · · · ·",
        "gate  · ■ ■ ·", "up    · · · ·", "down  · · · ·",
    ]  # fmt: skip
    assert {kind for row in strip_rows(architecture) for _, kind in row.cells} == {"F", "dense", "hdpl"}
