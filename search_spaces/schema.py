"""Reading a space file into a SearchSpace: every section, every rule between them, all problems at once."""

from __future__ import annotations

import re
from typing import Any

from search_spaces.baselines import read_baselines
from search_spaces.compatibility import check_fit
from search_spaces.constraints import Constraint, read_constraints
from search_spaces.distributions import Distribution, placement_matters
from search_spaces.extremes import check_possible, check_range
from search_spaces.fields import fields, unknown_field
from search_spaces.latency import LatencySettings, read_latency
from search_spaces.library import read_library
from search_spaces.objectives import Objective, read_objectives
from search_spaces.pretrained import is_pretrained, read_model, read_replacements
from search_spaces.probes.registry import PROBES
from search_spaces.proxy import Proxy, check_ahead, read_proxy
from search_spaces.reading import read_distribution
from search_spaces.space import SearchSpace
from search_spaces.text import read_data
from search_spaces.variation import OPERATORS, Variation
from surgery.architecture.metrics import AHEAD, PROMPTED, TEACHED, TRAINED
from surgery.config.backbone import Backbone
from surgery.config.options import REQUIRED, Cursor
from surgery.config.problems import Problems
from surgery.config.yaml_source import Source
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.projections import PROJECTION_OPERATORS

SECTIONS = (
    "name", "backbone", "search", "constraints", "objectives", "baselines", "proxy", "latency", "data",
)  # fmt: skip
PRETRAINED_SECTIONS = (
    "name", "model", "search", "constraints", "objectives", "library", "latency", "data",
)  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_space(source: Source, default_name: str = "space") -> SearchSpace:
    """Read and check a space.

    Raises:
        UserError: the file has problems; all of them are listed, in line order.
    """
    problems = Problems()
    root = Cursor(problems, source)
    if source.data is None:
        root.problem(None, "is empty", f"sections: {', '.join(SECTIONS)}")
    if isinstance(source.data, dict) and is_pretrained(source.data):
        return _read_pretrained(root, default_name)
    given = root.mapping(source.data, SECTIONS)
    name = _read_name(given.get("name", default_name), root.at("name"))
    backbone = _read_backbone(given, root)
    search = _read_search(given, root.at("search"))
    limits = read_constraints(given.get("constraints"), root.at("constraints"))
    objectives = read_objectives(given.get("objectives"), root.at("objectives"))
    baselines = read_baselines(given.get("baselines"), backbone, root.at("baselines"))
    vocab_size = backbone.vocab_size if backbone else None
    _refuse(objectives, TEACHED, "compares with a pretrained model", root.at("objectives"))
    wanted = given.get("objectives")
    probes = [name for name in PROBES if isinstance(wanted, dict) and name in wanted]
    proxy = read_proxy(given.get("proxy"), vocab_size, probes, root.at("proxy"))
    if proxy is not None:
        for metric in (item.name for item in objectives if item.name in AHEAD):
            check_ahead(proxy, 1 / AHEAD[metric], root.at("objectives").at(metric))
    latency = _read_latency(given, limits, objectives, root)
    data = read_data(given.get("data"), vocab_size, root.at("data"))
    if backbone is not None and search:
        variation = Variation(backbone, given["backbone"], search)
        faulty = ("search.mixers.ratio", "search.layout")  # what they were meant to have is not known
        known = not any(problem.field.startswith(faulty) for problem in problems.entries)
        check_fit(variation, root.at("search"), mixers_known=known)
        if not any(problem.field.startswith("search") for problem in problems.entries):
            check_possible(variation, limits, root.at("constraints"))  # a partly read search has other costs
    _raise_if_any(root)
    assert proxy is not None
    constraints = tuple(constraint for _, constraint in limits)
    return SearchSpace(
        name, variation, constraints, objectives, baselines, proxy, data, source.text, source.name,
        latency=latency,
    )  # fmt: skip


def _read_pretrained(root: Cursor, default_name: str) -> SearchSpace:
    """Read a space over a pretrained model."""
    source = root.source
    assert source is not None
    given = root.mapping(source.data, PRETRAINED_SECTIONS)
    name = _read_name(given.get("name", default_name), root.at("name"))
    model = read_model(given.get("model"), root.at("model"))
    own = model.architecture if model is not None else None
    replacements = read_replacements(given.get("search"), own, root.at("search"))
    limits = read_constraints(given.get("constraints"), root.at("constraints"), own)
    objectives = read_objectives(given.get("objectives"), root.at("objectives"))
    _refuse(objectives, TRAINED, "is measured by training from scratch", root.at("objectives"))
    library = read_library(given.get("library"), root.at("library"))
    retrieved = [item.metric.name for item in objectives if item.metric.name in PROMPTED]
    if library.prompts == 0 and retrieved:
        rule = f"but {' and '.join(retrieved)} in objectives needs prompts"
        root.at("library", "prompts").problem(library.prompts, rule, "write prompts: 50 in library")
    latency = _read_latency(given, limits, objectives, root)
    corpus = root.at("data").mapping(given.get("data"), ("corpus",))  # the tokenizer is the model's
    data = read_data({**corpus, "tokenizer": model.name if model else "."}, None, root.at("data"))
    if replacements is not None:
        for index, constraint in limits:
            if constraint.metric.timed:  # not known yet
                continue
            check_range(constraint, replacements.cost_range(constraint.name), root.at("constraints", index))
    _raise_if_any(root)
    assert replacements is not None
    assert model is not None
    proxy = Proxy(
        tokens=library.eval_tokens, seq_len=library.seq_len, batch_tokens=library.seq_len, rungs=(1.0,),
        eval_tokens=library.eval_tokens,
    )  # fmt: skip
    constraints = tuple(constraint for _, constraint in limits)
    return SearchSpace(
        name, replacements, constraints, objectives, (), proxy, data, source.text, source.name, model,
        library, latency,
    )  # fmt: skip


def _read_latency(
    given: dict[str, Any],
    limits: list[tuple[int, Constraint]],
    objectives: tuple[Objective, ...],
    root: Cursor,
) -> LatencySettings:
    """Read the section `latency`, which only a space with a latency may have."""
    cursor = root.at("latency")
    named = any(item.metric.timed for item in objectives) or any(item.metric.timed for _, item in limits)
    if "latency" in given and not named and not root.problems.entries:
        hint = "add one, such as decode_ms@4096: min, or remove the section"
        cursor.problem(None, "has no effect: no objective or constraint is a latency", hint)
    return read_latency(given.get("latency"), cursor)


def _raise_if_any(root: Cursor) -> None:
    root.problems.entries.sort(key=lambda problem: problem.line or 0)
    name = root.source.name if root.source else "space"
    root.problems.raise_if_any(f"{name}: not a valid search space")


def _refuse(objectives: tuple[Objective, ...], names: tuple[str, ...], why: str, cursor: Cursor) -> None:
    for item in objectives:
        if item.metric.name in names:
            cursor.at(item.name).problem(None, f"{why}, which this space does not do", "remove it")


def _read_name(value: object, cursor: Cursor) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    cursor.problem(value, "must be a name of letters, digits, dot, dash and underscore")
    return ""


def _read_backbone(given: dict[str, Any], root: Cursor) -> Backbone | None:
    cursor = root.at("backbone")
    if given.get("backbone") is None:
        cursor.problem(None, "is missing", "give the sizes of the dense model that architectures vary")
        return None
    return Backbone.read(given["backbone"], cursor)


def _read_search(given: dict[str, Any], cursor: Cursor) -> dict[str, Distribution]:
    """Return the valid fields, in sampling order."""
    data = given.get("search")
    if not data:
        cursor.problem(data, "has no fields to search", "such as {hdpl.rank: {choice: [16, 32]}, ...}")
        return {}
    known = fields()
    distributions: dict[str, Distribution] = {}
    content = cursor.mapping(data)
    meant = ""
    for name, value in content.items():
        here = cursor.at(name)
        if name not in known:
            rule, hint = unknown_field(name)
            here.problem(None, rule, hint)
            meant += hint
        elif (distribution := read_distribution(known[name], value, here)) is not None:
            distributions[name] = distribution
    _check_company(content, distributions, cursor)
    _check_required(content, distributions, meant, cursor)
    if (
        distributions
        and len(distributions) == len(content)
        and all(item.fixed for item in distributions.values())
    ):
        cursor.problem(
            ", ".join(distributions), "nothing varies: every field has a single value", "give one a choice"
        )
    return {name: distributions[name] for name in known if name in distributions}


def _check_company(content: dict[str, Any], distributions: dict[str, Distribution], cursor: Cursor) -> None:
    """Report fields that have no effect without another field, or that exclude each other."""
    if "layout" in content and "mixers.ratio" in content:
        cursor.at("layout").problem(
            content["layout"], "can't be combined with mixers.ratio", "keep one of them"
        )
    for operator in OPERATORS:
        projections = f"{operator}.projections"
        alone = [name for name in content if name.startswith(f"{operator}.") and name != projections]
        if alone and projections not in content:
            rule = f"has no effect without {projections}"
            cursor.at(alone[0]).problem(
                ", ".join(alone), rule, f"such as {projections}: {{subset: [q, gate]}}"
            )
    ratio = distributions.get("mixers.ratio")
    if "mixers.placement" in content:
        here = cursor.at("mixers.placement")
        if "mixers.ratio" not in content:
            here.problem(
                None, "has no effect without mixers.ratio", "such as mixers.ratio: {full: [0, 4], ...}"
            )
        elif ratio is not None and not any(map(placement_matters, ratio.values() or ())):
            rule = "has no effect: no ratio mixes the first mixer with another"
            here.problem(None, rule, f"mixers: {', '.join(MIXER_WORDS[letter] for letter in MIXERS)}")


def _check_required(
    content: dict[str, Any], distributions: dict[str, Distribution], meant: str, cursor: Cursor
) -> None:
    """Report missing options that have no default, for operators that some projection may use.

    `meant` holds the hints that were given already, so that a misspelt option is reported once.
    """
    for operator in OPERATORS:
        projections = distributions.get(f"{operator}.projections")
        if projections is None or not any(projections.values() or ()):
            continue
        for option, schema in PROJECTION_OPERATORS[operator].options.items():
            field = f"{operator}.{option}"
            if schema.default is REQUIRED and field not in content and f'"{field}"' not in meant:
                rule = f"is missing: {operator}.projections turns projections into {operator}"
                cursor.at(field).problem(None, rule, schema.help)
