"""Building a library: every replacement is fitted to the activations of the original model.

The text runs through the original's layers once; at each layer all its replacements are fitted in turn.
Since none of them sees the errors of another, they can be combined freely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.library import LibrarySettings
from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.parts import new_tensors
from studies.library.align import align
from studies.library.entries import Entry, entries_of
from studies.library.library import Library
from studies.library.text import check_text
from studies.training.loop import Interrupted
from surgery.apply.calibrate import Stream
from surgery.apply.execute import carried, fit_layer
from surgery.apply.names import EMBEDDING
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel
from surgery.hf.lazy import in_float32, make_block

Progress = Callable[[str, int, int], None]  # (stage, done, total)
ShouldStop = Callable[[], bool]


def build(
    library: Library,
    source: SourceModel,
    parts: Replacements,
    data: TokenData,
    settings: LibrarySettings,
    device: torch.device,
    progress: Progress = lambda stage, done, total: None,
    should_stop: ShouldStop = lambda: False,
) -> None:
    """Fit all replacements of a space that the library lacks, and align them if the settings ask for it.

    Each is written as soon as it is made, so that an interrupted build resumes with the next one.

    Args:
        library: the library of this model, text and settings.
        source: the original model.
        parts: the space.
        data: tokens by the model's own tokenizer.
        settings: of the fits.
        device: where to compute.
        progress: called with (stage, done, total).
        should_stop: asked before every replacement.

    Raises:
        Interrupted: `should_stop` returned True.
        UserError: model, text and settings don't fit each other (`check_text`), the model's weights can't be
            used, or the library can't be read or written.
    """
    check_text(source, data, settings)
    entries = list(entries_of(parts).values())
    with library.lock(should_stop):
        missing = library.missing(entries)
        if missing:
            source.check_values()
        todo = list(_planned(source, parts, missing))
        done = len(entries) - len(missing)
        for item in list(todo):
            if not item.new:  # nothing but the model's own tensors, or none at all
                library.add(item.entry, {})
                todo.remove(item)
                done += 1
        for _ in _fit(library, source, todo, data, settings, device, should_stop):
            done += 1
            progress("fitting replacements", done, len(entries))
        if settings.align_tokens:
            align(library, source, parts, entries, data, settings, device, progress, should_stop)


@dataclass(frozen=True)
class _Item:
    """A replacement to fit, the surgery that has it, and the names of its tensors that are new."""

    entry: Entry
    plan: Plan | None
    new: frozenset[str]


def _planned(source: SourceModel, parts: Replacements, entries: Iterable[Entry]) -> Iterable[_Item]:
    """Yield what to do for each entry; those with the same label share one plan."""
    plans: dict[tuple[str, str], tuple[Plan, frozenset[str]]] = {}
    for entry in entries:
        if entry.absent:
            yield _Item(entry, None, frozenset())
            continue
        kind = (entry.part, entry.label)
        if kind not in plans:
            planned = plan(source, parts.uniform(*kind), stock=False)
            plans[kind] = planned, new_tensors(planned)
        planned, new = plans[kind]
        yield _Item(entry, planned, frozenset(name for name in new if name.startswith(entry.prefix)))


def _fit(
    library: Library,
    source: SourceModel,
    todo: list[_Item],
    data: TokenData,
    settings: LibrarySettings,
    device: torch.device,
    should_stop: ShouldStop,
) -> Iterable[Entry]:
    """Fit and write the replacements layer after layer; yields each that is written."""
    if not todo:
        return
    unchanged = plan(source, source.architecture, stock=False)
    sequences = calibration(data, settings)
    stream = Stream(source.architecture, source.tensor(EMBEDDING), sequences, device)
    last = max(item.entry.layer for item in todo)
    for index in range(last + 1):
        for item in (item for item in todo if item.entry.layer == index):
            if should_stop():
                raise Interrupted
            assert item.plan is not None, "it has new tensors"
            state = carried(source, item.plan, index)
            block = make_block(item.plan.after, index, state, in_float32(device))
            reports = list(fit_layer(source, item.plan, index, state, block, stream, "full", device))
            tensors = {name.removeprefix(item.entry.prefix): state[name].read() for name in item.new}
            errors = {report.projection: report.output_error or 0.0 for report in reports}
            library.add(item.entry, tensors, errors=errors)
            yield item.entry
        if index < last:
            original = carried(source, unchanged, index)
            stream.advance(make_block(source.architecture, index, original, in_float32(device)))


def calibration(data: TokenData, settings: LibrarySettings) -> list[Tensor]:
    """Return the sequences that replacements are fitted to, spread evenly over the training text."""
    available = data.num_sequences("train", settings.seq_len)
    count = min(available, max(1, settings.fit_tokens // settings.seq_len))
    indices = np.arange(count) * available // max(1, count)
    return list(torch.from_numpy(data.batch(indices, settings.seq_len)[:, :-1]))
