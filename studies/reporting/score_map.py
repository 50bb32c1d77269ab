"""Scores of a pretrained model's replacements as a map of layers by options: numbers, picture, Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from search_spaces.replacements import KEEP, PARTS
from search_spaces.short_labels import short_labels
from studies.library.scores import Score, Scores, read_scores
from studies.reporting.drawing import draw
from studies.reporting.figure import Figure, HeatMap
from studies.reporting.markdown import markdown_table
from studies.study import Study
from surgery.config.problems import Problem, UserError
from surgery.config.quantities import format_count

LOW, HIGH = 1e-3, 1.0  # nats/token at the ends of the colours: hardly measurable, and a broken model
_TINY = 5e-5  # below, four decimals have no digit
_NONE = "·"  # of a layer that does not have the option


@dataclass(frozen=True)
class Column:
    """An option of a part, as a column of the map."""

    part: str
    label: str
    short: str


@dataclass(frozen=True)
class ScoreMap:
    """Scores of a study by layer and option.

    Attributes:
        study, model: names.
        letters: the model's own mixer of each layer.
        columns: the options, those of the mixer first.
        scores: by (layer, part, label); layers that are kept have none.
        tokens: held-out tokens of each score.
        prompts: of each retrieval task, at whose answers the scores are; None: they are scores on text.
    """

    study: str
    model: str
    letters: str
    columns: tuple[Column, ...]
    scores: Mapping[tuple[int, str, str], Score]
    tokens: int
    prompts: int | None = None

    @classmethod
    def of(cls, study: Study) -> list[ScoreMap]:
        """Read the scores of a study: on text, and behind them those at answers, if there are any.

        Raises:
            UserError: it has none (yet), or its file of scores is damaged.
        """
        scores = scores_of(study)
        space = study.space
        if scores is None:
            raise UserError(f'study "{study.name}" has no scores', [_missing(study)])
        assert space.replacements is not None
        assert space.model is not None
        assert space.library is not None
        parts, short = space.replacements.parts, short_labels(space.replacements)
        columns = dict.fromkeys(
            Column(kind, label, short[kind, label])
            for kind in PARTS for part in parts if part.part == kind
            for label in part.labels if label != KEEP
        )  # fmt: skip
        letters = space.replacements.model.layout
        maps = []
        for values, prompts in ((scores.kl, None), (scores.retrieval, space.library.score_prompts)):
            if values is not None:
                by_layer = {
                    (part.layer, part.part, label): values[part.name, label]
                    for part in parts for label in part.labels if label != KEEP
                }  # fmt: skip
                tokens = space.library.score_tokens
                maps.append(cls(
                    study.name, space.model.name, letters, tuple(columns), by_layer, tokens, prompts
                ))  # fmt: skip
        return maps

    def score(self, layer: int, column: Column) -> Score | None:
        """Return the score of an option in a layer; None if the layer does not have it."""
        return self.scores.get((layer, column.part, column.label))

    def cell(self, layer: int, column: Column) -> str:
        """Return the score as short text."""
        score = self.score(layer, column)
        return _NONE if score is None else brief(score.mean)

    @property
    def legend(self) -> str:
        """A sentence on the numbers, and how far to trust them."""
        shares = [item.standard_error / item.mean for item in self.scores.values() if item.mean > 0]
        errors = ""
        if shares:
            errors = f"; standard errors are {median(shares):.0%} of the score in the median, "
            errors += f"{max(shares):.0%} at most"
        passages = f"over {format_count(self.tokens)} held-out tokens"
        if self.prompts is not None:
            passages = f"at the answers to {self.prompts} prompts of each retrieval task"
        return f"KL divergence from the model with this one part replaced, in nats/token, {passages}{errors}"

    def markdown(self) -> str:
        """Return a table of the scores."""
        head = ["layer", *(f"{column.part} {column.short}" for column in self.columns)]
        rows = [
            [f"{layer} {letter}", *(self.cell(layer, column) for column in self.columns)]
            for layer, letter in enumerate(self.letters)
        ]
        return markdown_table(head, rows)

    def panel(self, kind: str) -> HeatMap:
        """Return the picture of a part's options."""
        columns = [column for column in self.columns if column.part == kind]
        layers = range(len(self.letters))
        grid = [[self.score(layer, column) for column in columns] for layer in layers]
        return HeatMap(
            kind if self.prompts is None else f"{kind}, answers to prompts",
            rows=[f"{layer} {self.letters[layer]}" for layer in layers],
            columns=[column.short for column in columns],
            values=[[float("nan") if item is None else item.mean for item in row] for row in grid],
            texts=[["" if item is None else brief(item.mean) for item in row] for row in grid],
            hover=[
                [
                    ""
                    if item is None
                    else f"layer {layer}: {column.label}<br>{item.mean:.4g} ± {item.standard_error:.2g}"
                    for column, item in zip(columns, row, strict=True)
                ]
                for layer, row in zip(layers, grid, strict=True)
            ],
            label="KL (nats/token)",
            low=LOW,
            high=HIGH,
        )


def map_data(maps: Sequence[ScoreMap]) -> dict[str, Any]:
    """Return the numbers of a study's maps for `--json`; its keys are stable."""
    text, answers = maps[0], maps[1] if len(maps) > 1 else None

    def of_answers(key: tuple[int, str, str]) -> tuple[float | None, float | None]:
        score = answers.scores[key] if answers is not None else None
        return (None, None) if score is None else (score.mean, score.standard_error)

    return {
        "study": text.study,
        "model": text.model,
        "layout": text.letters,
        "score_tokens": text.tokens,
        "score_prompts": None if answers is None else answers.prompts,
        "scores": [
            {
                "layer": layer,
                "part": part,
                "replacement": label,
                "kl": score.mean,
                "standard_error": score.standard_error,
                "retrieval_kl": of_answers((layer, part, label))[0],
                "retrieval_standard_error": of_answers((layer, part, label))[1],
            }
            for (layer, part, label), score in text.scores.items()
        ],
    }


def plot_maps(maps: Sequence[ScoreMap], path: Path) -> None:
    """Draw the maps of a study, a panel for each part.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    draw(maps_figure(maps), path)


def maps_figure(maps: Sequence[ScoreMap]) -> Figure:
    """Return the maps of a study as a plot."""
    panels = [
        item.panel(kind) for item in maps
        for kind in PARTS if any(column.part == kind for column in item.columns)
    ]  # fmt: skip
    model = maps[0].model.rstrip("/").rpartition("/")[2]
    title = f"{maps[0].study}: one part of {model} replaced at a time"
    return Figure(title, panels, width=4.2, height=1.8 + 0.17 * len(maps[0].letters))


def scores_of(study: Study) -> Scores | None:
    """Return the scores of a study; None if it has none (yet), or trains architectures from scratch.

    Raises:
        UserError: its file of scores is damaged.
    """
    replacements = study.space.replacements
    return None if replacements is None else read_scores(study.folder, replacements)


def brief(kl: float) -> str:
    """Return a score with at most three digits: `5e-6`, `.0003`, `.012`, `.125`, `1.25`, `12.5`."""
    if kl < _TINY:
        return f"{kl:.0e}".replace("e-0", "e-") if kl > 0 else "0"  # rounding may take it just below
    if kl >= 9.995:
        return f"{kl:.1f}"
    if kl >= 0.9995:
        return f"{kl:.2f}"
    text = f"{kl:.3f}" if kl >= 0.00995 else f"{kl:.4f}"
    return text.removeprefix("0")


def _missing(study: Study) -> Problem:
    if study.space.replacements is None:
        rule = "applies to a search of a pretrained model's replacements; this study trains from scratch"
        return Problem("--scores", None, rule, "nas search SPACE --model MODEL starts one")
    rule = f"there is no scores.json in {study.folder}: no worker there has scored the replacements yet"
    return Problem("--scores", None, rule, "wait for the search's first trial, or run the search here")
