"""A study keeps the rules that it was started under: a version with others reads it, and trains nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from search_spaces import parse_space
from studies.audit.plan import open_audit
from studies.audit.runs import train_runs
from studies.data import TokenData
from studies.search.refinement import take_repeat
from studies.study import Study
from studies.study.rules import RULES, changed_rules, rules_of
from studies.workers.worker import work
from surgery.config.problems import UserError
from tests.studies.conftest import SPACE, MakeStudy, study_settings

TIED, BOOKEND = (rule.name for rule in RULES)
UNTIED = SPACE.replace("tie_embeddings: true", "tie_embeddings: false").replace("13k", "40k")


def with_placement(text: str, placement: str) -> str:
    mixers = f"search:\n  mixers.ratio: {{full: 1, gdn: [0, 2]}}\n  mixers.placement: {placement}"
    return text.replace("search:", mixers, 1)


def forget_rules(study: Study) -> Study:
    """The study as a version left it that recorded none."""
    stored = dict(study.inner.user_attrs["nas"])
    assert stored.pop("rules") == rules_of(study.space)
    study.inner.set_user_attr("nas", stored)
    return Study.open(study.name, study.folder.parent)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (SPACE, {TIED}),
        (UNTIED, set()),
        (with_placement(UNTIED, "bookend"), {BOOKEND}),
        (with_placement(UNTIED, "{choice: [front, bookend]}"), {BOOKEND}),
        (with_placement(UNTIED, "{choice: [front, back]}"), set()),
        (with_placement(SPACE, "{choice: [interleave, bookend]}"), {TIED, BOOKEND}),
    ],
)
def test_a_rule_counts_where_it_decides_trials(
    text: str, names: set[str], make_study: MakeStudy, tokens: TokenData
) -> None:
    space = parse_space(text, "small.yaml")
    assert set(rules_of(space)) == names
    assert changed_rules(space, rules_of(space)) == []
    assert {problem.field for problem in changed_rules(space, {})} == names
    study = make_study(text=text)
    runs, settings = study.folder.parent, study_settings(tokens)
    assert Study.create_or_resume("study", space, settings, runs)[1]
    forget_rules(study)
    if not names:
        assert Study.create_or_resume("study", space, settings, runs)[1]
        return
    with pytest.raises(UserError, match="started by a version with other rules") as caught:
        Study.create_or_resume("study", space, settings, runs)
    assert {problem.field for problem in caught.value.problems} == names
    for rule in RULES:
        assert (f"{rule.before} -> {rule.now}" in str(caught.value)) == (rule.name in names)
    assert "with the version of nas that started it" in str(caught.value)


def test_a_study_of_other_rules_is_read_and_not_trained_in(
    make_study: MakeStudy, quiet: Callable[[str], None]
) -> None:
    study = make_study()
    work(study, target=3, device="cpu", log=quiet)
    old = forget_rules(study)
    assert sum(record.counted for record in old.records()) == 3
    assert [record.values for record in old.records()] == [record.values for record in study.records()]
    with pytest.raises(UserError, match=TIED):
        work(old, target=4, device="cpu", log=quiet)
    with pytest.raises(UserError, match=TIED):
        work(old, target=4, device="cpu", log=quiet, take_next=take_repeat)
    with pytest.raises(UserError, match=TIED):
        train_runs(open_audit(old, 2, 2), 1, "cpu")
