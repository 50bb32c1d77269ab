"""Tables for others: Parquet with a row a measurement, and a folder that Syne Tune reads as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.replay.table import Entry, Table, unusable
from surgery.config.problems import UserError

META = b"nas"  # key of the table's space and provenance in the Parquet schema
PARAM, COST = "param.", "cost."  # prefixes of columns
UNUSED = "unused"  # value of a parameter that an architecture does not have
OBJECTIVES = ("val_loss", "elapsed_time")  # of Syne Tune, before the exact costs


def write_parquet(table: Table, path: Path) -> None:
    """Write a table with a row for each architecture, run and point of its loss curve.

    Columns: `architecture` (hash), `line`, `run`, `fraction` of the budget, `tokens`, `val_loss` in
    nats/token, `seconds` of the whole run, exact costs as `cost.NAME`, trial parameters as `param.NAME`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    entries = list(table.entries.values())
    params, costs = _names(entry.params for entry in entries), _names(entry.costs for entry in entries)
    budget = table.space.proxy.tokens
    rows = [
        {
            "architecture": entry.hash,
            "line": entry.line,
            "run": run,
            "fraction": share,
            "tokens": round(share * budget),
            "val_loss": loss,
            "seconds": entry.seconds[run],
            **{f"{COST}{name}": entry.costs.get(name) for name in costs},
            **{f"{PARAM}{name}": _as_text(entry.params.get(name)) for name in params},
        }
        for entry in entries
        for run, curve in enumerate(entry.curves)
        for share, loss in zip(table.fractions, curve, strict=True)
    ]
    about = json.dumps({"space": table.space.text, "about": dict(table.about)})
    written = pa.Table.from_pylist(rows)
    pq.write_table(
        written.replace_schema_metadata({META: about.encode()}), path, compression="zstd", version="2.6"
    )


def open_table(path: str | Path) -> Table:
    """Read a table from a file of either kind.

    Raises:
        UserError: no such file, or not a table.
    """
    return read_parquet(path) if Path(path).suffix == ".parquet" else Table.open(path)


def read_parquet(path: str | Path) -> Table:
    """Read what `write_parquet` wrote.

    Raises:
        UserError: no such file, or not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from search_spaces import parse_space

    try:
        stored = pq.read_table(path)
        meta = json.loads(stored.schema.metadata[META])
        rows = stored.to_pylist()
        grouped: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for row in rows:
            grouped.setdefault(row["architecture"], {}).setdefault(row["run"], []).append(row)
        fractions = tuple(sorted({row["fraction"] for row in rows}))
        entries = [_entry(name, runs, fractions) for name, runs in grouped.items()]
        return Table(
            parse_space(meta["space"], "table.yaml"),
            fractions,
            {item.hash: item for item in entries},
            meta["about"],
        )
    except UserError:
        raise
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise unusable(path, f"is no table of loss curves: {error}") from error


def write_syne_tune(table: Table, folder: Path, name: str) -> None:
    """Write a table as a blackbox of Syne Tune (0.16): `BlackboxTabular`, one task, tokens as fidelity.

    Objectives are `val_loss`, `elapsed_time` in seconds since the run's start, and the exact costs. Runs that
    an architecture does not have are NaN.

    Args:
        folder: made if it is missing; its files are replaced.
        name: of the task.
    """
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    entries = list(table.entries.values())
    frame = pd.DataFrame([_settings(entry, _names(item.params for item in entries)) for entry in entries])
    frame.to_parquet(folder / "hyperparameters.parquet", index=False, compression="gzip")
    tokens = [round(share * table.space.proxy.tokens) for share in table.fractions]
    domains = {
        str(column): _domain("Categorical", categories=sorted(frame[column].unique().tolist(), key=str))
        for column in frame.columns
    }
    _write_json(folder / "configspace.json", domains)
    _write_json(
        folder / "fidelityspace.json", {"tokens": _domain("Integer", lower=tokens[0], upper=tokens[-1])}
    )
    np.save(folder / "fidelities_values.npy", np.array(tokens), allow_pickle=False)
    costs = _names(entry.costs for entry in entries)
    np.save(folder / "objectives_evaluations.npy", _evaluations(table, costs)[None], allow_pickle=False)
    about = {
        "objectives_names": [*OBJECTIVES, *costs],
        "task_names": [name],
        "metric_names": [name for name in OBJECTIVES if name != "elapsed_time"],
        "elapsed_time_attr": "elapsed_time",
        "default_metric": "val_loss",
        "metric_mode": "min",
        "resource_attr": "tokens",
        "about": dict(table.about),
    }
    _write_json(folder / "metadata.json", about)


def _evaluations(table: Table, costs: list[str]) -> NDArray[np.float32]:
    """Return measurements (architectures, runs, fractions, objectives)."""
    entries, fractions = list(table.entries.values()), np.array(table.fractions)
    runs = max(len(entry.curves) for entry in entries)
    shape = (len(entries), runs, len(fractions), len(OBJECTIVES) + len(costs))
    values = np.full(shape, np.nan, np.float32)
    for index, entry in enumerate(entries):
        values[index, :, :, len(OBJECTIVES) :] = [entry.costs.get(name, np.nan) for name in costs]
        for run, curve in enumerate(entry.curves):
            values[index, run, :, 0] = curve
            values[index, run, :, 1] = fractions * entry.seconds[run]
    return values


def _entry(name: str, runs: Mapping[int, list[dict[str, Any]]], fractions: tuple[float, ...]) -> Entry:
    first = next(iter(runs.values()))[0]
    curves = [{row["fraction"]: row["val_loss"] for row in runs[run]} for run in sorted(runs)]
    return Entry(
        hash=name,
        line=first["line"],
        params={
            key.removeprefix(PARAM): json.loads(value)
            for key, value in first.items()
            if key.startswith(PARAM) and value is not None
        },
        costs={
            key.removeprefix(COST): value
            for key, value in first.items()
            if key.startswith(COST) and value is not None
        },
        curves=tuple(tuple(curve[share] for share in fractions) for curve in curves),
        seconds=tuple(runs[run][0]["seconds"] for run in sorted(runs)),
    )


def _as_text(value: object) -> str | None:
    """Return a parameter as JSON, since a column has one type; None if it is missing."""
    return None if value is None else json.dumps(value)


def _settings(entry: Entry, names: list[str]) -> dict[str, str]:
    return {name: str(entry.params.get(name, UNUSED)) for name in names}


def _names(mappings: Any) -> list[str]:
    """Return the keys of all mappings, in the order of their first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _domain(kind: str, **arguments: Any) -> dict[str, Any]:
    """Return a domain of Syne Tune's configuration spaces as its JSON."""
    return {"domain_cls": kind, "domain_kwargs": arguments, "sampler_cls": "Uniform", "sampler_kwargs": {}}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
