"""Help says by example, lists what may be chosen, and calls the same thing by the same name everywhere."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from rich.console import Console
from typer.testing import Result

from nas_cli import choices
from nas_cli.render import screen
from search_spaces.probes.registry import PROBES
from search_spaces.probes.state import GROUPS
from search_spaces.proxy import LR_RULES, OPTIMIZERS
from studies.healing.settings import KL_SHARES
from studies.search.samplers import SAMPLERS
from studies.search.stopping_rules import STOPPING_RULES
from surgery.apply.target import FOLDS
from surgery.projections import PROJECTION_OPERATORS
from tests.pages import resolve

Nas = Callable[..., Result]


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*words, name))


@pytest.fixture(scope="module")
def root(cli: typer.Typer) -> Any:
    return typer.main.get_command(cli)


@pytest.fixture(autouse=True)
def _output_as_before() -> Iterator[None]:
    """Without what a command's --quiet, --verbose or --log leaves in this process."""
    top = logging.getLogger()
    before = (top.handlers[:], top.level, screen.log.handlers[:])
    yield
    screen.notes.quiet = False
    top.handlers[:], level, screen.log.handlers[:] = before
    top.setLevel(level)


@pytest.mark.parametrize(
    ("choice", "registry"),
    [
        (choices.Sampler, SAMPLERS), (choices.Stopping, STOPPING_RULES), (choices.LrRule, LR_RULES),
        (choices.Optimizer, OPTIMIZERS),
        (choices.Fold, FOLDS), (choices.HealLoss, KL_SHARES), (choices.ProbeName, PROBES),
        (choices.GroupName, GROUPS),
        (choices.KlForm, PROJECTION_OPERATORS["hdpl"].options["kl"].choices),
    ],
)  # fmt: skip
def test_choices_are_those_of_the_registries(choice: Any, registry: Any) -> None:
    assert sorted(get_args(choice)) == sorted(registry)


def test_every_command_has_examples_that_parse(root: Any) -> None:
    for words, command in leaves(root):
        title, *examples = (command.epilog or "").splitlines()
        assert title == "Examples:", words
        assert examples, words
        for example in examples:
            line = example.removeprefix("[dim]$[/] ").replace("\\[", "[").partition(" > ")[0]
            target, given = resolve(line, root)
            assert target.name == command.name, line
            known = {option for item in target.params for option in (*item.opts, *item.secondary_opts)}
            assert {word for word in given if re.match(r"-[a-z-]", word)} <= known, line
            assert shlex.split(line)[1 : 1 + len(words)] == list(words)


def test_the_width_of_the_terminal_alone_wraps_the_help(root: Any) -> None:
    for words, command in leaves(root):
        assert command.help, words
        assert all("\n" not in paragraph for paragraph in command.help.split("\n\n")), words


def test_every_value_has_a_placeholder_and_things_have_one_name(root: Any) -> None:
    old = {"--out", "--max-tokens", "--max-new-tokens", "--processes", "--batch"}
    for words, command in leaves(root):
        options = {option for parameter in command.params for option in parameter.opts}
        assert not options & old, words
        assert {"--quiet", "-q", "--verbose", "-v", "--log"} <= options, words
        outputs = {parameter.opts[0] for parameter in command.params if "-o" in parameter.opts}
        assert outputs <= {"--output"}, words


def test_the_help_lists_choices_and_placeholders(nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = nas("search", "--help").stdout
    assert re.search(r"gain\|milp\|tpe\|nsga2\|nsga3\|gp\|random", text)
    assert re.search(r"--seed\s+N ", text)
    assert re.search(r"--data\s+CORPUS ", text)
    assert "counting earlier, paused and failed ones" in " ".join(text.replace("│", " ").split())
    assert "$ nas search tiny --trials 24 --workers 2" in text


@pytest.mark.parametrize("words", [(), ("bench",), ("search",), ("space", "list")])
def test_flags_have_no_value_in_the_help(nas: Nas, words: tuple[str, ...]) -> None:
    text = nas(*words, "--help").stdout
    assert "--help" in text
    assert "bool" not in text.lower()


def test_the_version_has_a_short_option(nas: Nas) -> None:
    assert nas("-V").stdout == nas("--version").stdout != ""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_spinner_heeds_quiet(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, quiet=quiet)
    monkeypatch.setattr(screen, "notes", console)
    monkeypatch.setenv("TERM", "xterm")
    with screen.starting("measuring") as say:
        say("measuring dense")
    assert (stream.getvalue() == "") == quiet


def test_no_benchmark_has_a_spinner_of_its_own() -> None:
    folder = Path(screen.__file__).parents[1] / "benchmarks"
    assert [path.name for path in folder.glob("*.py") if ".status(" in path.read_text("utf-8")] == []


def test_quiet_prints_results_only(nas: Nas, study_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study_folder, tmp_path / "micro")  # a pick is recorded in the study
    loud, quiet = nas("pick", copy), nas("pick", copy, "-q")
    assert quiet.stdout == loud.stdout
    assert quiet.stderr == ""
    assert "(knee of" in loud.stderr


def test_a_log_has_the_command_its_notes_and_its_errors(nas: Nas, tmp_path: Path) -> None:
    log = tmp_path / "nas.log"
    with pytest.raises(ValueError, match="tinny"):
        raise nas("space", "show", "tinny", "--log", log).exception  # type: ignore[misc]
    screen.print_warnings(["a warning"])
    text = log.read_text(encoding="utf-8")
    assert re.search(r"^20\d\d-\d\d-\d\d .* INFO nas: nas\b", text, re.MULTILINE)
    assert "WARNING nas: a warning" in text
    refused = nas("space", "list", "--log", tmp_path / "no" / "such.log")
    assert "can't write the log" in str(refused.exception)


def test_verbose_prints_what_libraries_log(nas: Nas) -> None:
    assert nas("space", "list", "-v").exit_code == 0
    assert logging.getLogger().level == logging.INFO
    assert any(isinstance(handler, logging.StreamHandler) for handler in logging.getLogger().handlers)


@pytest.mark.parametrize(
    ("line", "among", "without"),
    [
        ("nas search ti", ["tiny"], ["hybrid"]),
        ("nas search mi", ["mine.yaml"], ["arch.yaml"]),
        ("nas front mic", ["micro"], ["other"]),
        ("nas train a", ["arch.yaml"], ["mine.yaml"]),
        ("nas search tiny --sampler nsga", ["nsga2", "nsga3"], ["gain"]),
        ("nas search tiny --stopping f", ["forecast"], ["none"]),
        ("nas search tiny --device cu", ["cuda"], ["cpu"]),
        ("nas bench trial tiny --baseline lt2-l", ["lt2-looped"], ["dense"]),
        ("nas bench overhead tiny --samplers gain,ran", ["gain,random"], ["tpe"]),
        ("nas eval model --probe re", ["recall"], ["state"]),
    ],
)
def test_the_shell_completes(
    nas: Nas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study_folder: Path, cli: typer.Typer,
    line: str, among: list[str], without: list[str],
) -> None:  # fmt: skip
    from typer.testing import CliRunner

    from tests.nas_cli.conftest import MICRO

    (tmp_path / "mine.yaml").write_text(MICRO, encoding="utf-8")
    (tmp_path / "arch.yaml").write_text("layout: F\nbackbone: {dim: 32}\n", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "micro").symlink_to(study_folder)
    monkeypatch.chdir(tmp_path)
    words = line.split()
    variables = {
        "_NAS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    result = CliRunner().invoke(cli, [], prog_name="nas", env=variables)
    offered = result.stdout.split()
    assert set(among) <= set(offered)
    assert not set(without) & set(offered)


def test_the_time_to_answer_is_measured(nas: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_cli.benchmarks import startup

    monkeypatch.setattr(startup, "COMMANDS", (("--version", 0.3),))
    (answer,) = json.loads(nas("bench", "startup", "--rounds", 1, "--json").stdout)["answers"]
    assert answer["command"] == "--version"
    assert answer["cpu"] > 0
    assert answer["seconds"] > 0
