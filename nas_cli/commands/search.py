"""`nas search`: prepares the text, starts or resumes the study, and shows its progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from nas_cli.choices import Sampler, Stopping
from nas_cli.help import add_command
from nas_cli.opening import check_corpus, open_space
from nas_cli.options import (
    MOST,
    CompileOption,
    CpuPrecisionOption,
    DeviceOption,
    ModelOption,
    RunsOption,
    SpaceArgument,
    StorageOption,
    ThreadsOption,
    TimeoutOption,
    TrackOption,
    WorkersOption,
)
from nas_cli.render.counts import LanesOption
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.progress import data_progress
from nas_cli.render.screen import console, duration, errors, notes, own_command, print_warnings, starting
from nas_cli.tracking import chosen_trackers, print_stores, tracking_study
from studies.files.defaults import DEFAULT_RUNS, DEFAULT_SAMPLER, DEFAULT_STOPPING, DEFAULT_TRIALS

if TYPE_CHECKING:
    from search_spaces.proxy import Proxy
    from studies.study import Study
    from studies.study.trial_record import TrialRecord
    from studies.workers.progress import Snapshot
    from studies.workers.supervisor import Supervisor


def add_to(app: typer.Typer) -> None:
    """Add `search` to `app`."""
    add_command(
        app,
        "search",
        search,
        "nas search tiny --trials 24 --workers 2",
        "nas search tiny --dry-run",
        "nas search hybrid --data fineweb-edu --timeout 8h --device cuda",
        "nas search pretrained --model HuggingFaceTB/SmolLM2-135M --trials 40",
    )


def search(
    space: SpaceArgument,
    model: ModelOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the study. Default: the space's name.")] = None,
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST,
            help="Architectures that the study shall have, counting earlier, paused and failed ones, "
            "but no infeasible ones and duplicates.",
        ),
    ] = DEFAULT_TRIALS,
    timeout: TimeoutOption = None,
    workers: WorkersOption = 1,
    lanes: LanesOption = 1,
    data: Annotated[
        str | None,
        typer.Option(
            help="Text: builtin, fineweb-edu, hf:NAME, a .jsonl, .parquet or .txt file, a folder of them, "
            "or a folder made by `nas data prepare`. Default: the space's."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="bpe:SIZE (trained on the text) or a Hugging Face tokenizer. Default: the space's."
        ),
    ] = None,
    sampler: Annotated[
        Sampler,
        typer.Option(
            help="How architectures are suggested; gain: by expected hypervolume improvement. With --model "
            "the default is milp, the exact solver."
        ),
    ] = DEFAULT_SAMPLER,
    stopping: Annotated[
        Stopping, typer.Option(help="Early-stopping rule applied at each rung.")
    ] = DEFAULT_STOPPING,
    seed: Annotated[
        int, typer.Option(parser=seed_number, help="Seed for sampling, weights and data order.")
    ] = 0,
    device: DeviceOption = "auto",
    compile: CompileOption = "auto",
    cpu_precision: CpuPrecisionOption = None,
    threads: ThreadsOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be done, with time, memory and disk; keep nothing."),
    ] = False,
    track: TrackOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Search a space: train architectures on real text and find the Pareto front.

    With --model: fit and score replacements of the parts of a pretrained model, solve for the best designs,
    and measure them.

    The same name resumes a study; --trials includes what it already has. Ctrl-C stops; nothing is lost.
    """
    from studies.training.cores import check_workers

    trackers = chosen_trackers(track)
    searched = open_space(space, model)
    check_corpus(data)
    _check_name(name, runs, storage)
    check_workers(workers)
    with starting(f"{searched.name}: loading PyTorch"):
        from nas_cli.render.live import print_lines, show_live, watch
        from studies.reporting.annotator import annotating
        from studies.training.devices import crowding, pick_device
        from studies.workers.latency import foreign_times
        from studies.workers.request import SearchRequest

        request = SearchRequest(
            searched, name=name, trials=trials, timeout=timeout, workers=workers, lanes=lanes or None,
            data=data, tokenizer=tokenizer, sampler=sampler, stopping=stopping, seed=seed, device=device,
            compile=compile, cpu_precision=cpu_precision, threads=threads, runs=runs, storage=storage,
        )  # fmt: skip
        print_warnings(request.space.warnings())
        request.check()
    if dry_run:
        from nas_cli.render.preview import print_preview

        print_preview(request)
        return
    request.existing()  # a study that differs is refused before its text is fetched
    with data_progress() as progress:
        tokens = request.prepare(progress)
    print_warnings(tokens.warnings())
    study, resumed = request.open(tokens)
    supervisor = request.supervise(study)
    header = _header(study, resumed, supervisor, workers)
    if not notes.quiet:
        console.print(header, soft_wrap=True)
    print_warnings(crowding(workers, study.settings.threads, pick_device(device)))
    print_warnings(foreign_times(study, pick_device(device)))
    print_warnings([study.remark] if study.remark else [])
    with annotating(study), tracking_study(study, trackers):
        watch(
            supervisor,
            print_lines,
            show_live(supervisor, header),
            end=lambda: _print_front(study, supervisor),
        )
        _print_end(study, supervisor, runs)  # before the last notes are written
    if trackers:
        from studies.tracking.search import stores

        print_stores(trackers, stores(study))


def _check_name(name: str | None, runs: Path, storage: str | None) -> None:
    """Refuse a study's name before torch is loaded.

    Raises:
        UserError: the name or the address of the storage is not valid.
    """
    if name is not None:
        from studies.study.lookup import check_new

        check_new(name, runs, storage)


def _header(study: Study, resumed: bool, supervisor: Supervisor, workers: int) -> Text:
    """Return what is searched, and how."""
    from surgery.config.quantities import format_count

    space, settings = study.space, study.settings
    verb = "resumes" if resumed else "starts"
    first = Text.assemble(
        "study ",
        (study.name, "bold"),
        f" {verb}: space {space.name} ({space.size()}), text {settings.corpus}, "
        f"tokenizer {settings.tokenizer}\n",
    )
    low = ", bfloat16 matmuls on CPU" if settings.cpu_precision == "bfloat16" else ""
    has = f"has {supervisor.trained_before} architecture{_s(supervisor.trained_before)}, " if resumed else ""
    what = f"architectures, {_budget(space.proxy)}"
    stopping = f"stopping {settings.stopping}, " if space.library is None else ""  # designs are not stopped
    if space.library is not None:
        held_out = format_count(space.library.eval_tokens)
        what = f"measured designs of {space.backbone.num_layers} layers, {held_out} held-out tokens each"
    return first.append(
        f"{has}target {supervisor.target} {what}, "
        f"{workers} worker{_s(workers)} with {settings.threads} thread{_s(settings.threads)}"
        f"{' each' if workers > 1 else ''}{_lanes(supervisor.lanes)}, "
        f"sampler {settings.sampler}, {stopping}seed {settings.seed}{low}, folder {study.folder}"
    )


def _lanes(count: int | None) -> str:
    if count is None:
        return ", as many lanes as pay"
    return f", {count} lanes" if count > 1 else ""


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _budget(proxy: Proxy) -> str:
    from surgery.config.quantities import format_count

    tokens = f"{format_count(proxy.tokens)} tokens"
    if proxy.seconds is None:
        return f"{tokens} each"
    return f"{duration(proxy.seconds)} of training each, at most {tokens}"


def _saved(study: Study, last: Snapshot) -> str:
    """Return the tokens used as a share of those without early stopping; empty if no trial is paused."""
    trained = [record for record in last.records if record.state in ("trained", "paused")]
    if not last.count("paused"):
        return ""
    proxy = study.space.proxy
    whole = [record.whole_steps(proxy) * proxy.batch_tokens for record in trained]
    spent = sum(
        most if record.tokens is None else record.tokens for record, most in zip(trained, whole, strict=True)
    )
    return f" ({spent / sum(whole):.0%} of the tokens)"


def only_to_beat(records: Sequence[TrialRecord]) -> str:
    """Return what a search of a pretrained model says that ended before its own designs; empty otherwise."""
    from studies.study.trial_record import DONE

    done = [record for record in records if record.state == DONE]
    if not done or any(record.baseline is None for record in done):
        return ""
    which = "the only one is a design" if len(done) == 1 else f"all {len(done)} are designs"
    return (
        f"{which} to beat, which are measured first: "
        "the same command with more --trials measures what the search chooses"
    )


def _print_front(study: Study, supervisor: Supervisor) -> None:
    from nas_cli.render.tables import trial_table

    front = supervisor.snapshot().front
    if front:
        console.print(trial_table(front, study.space, title=f"front of {study.name}"))


def _print_end(study: Study, supervisor: Supervisor, runs: Path) -> None:
    from nas_cli.render.live import exit_if_died, report_failures
    from studies.study.settings import MILP

    last = supervisor.snapshot()
    report_failures(supervisor, last)
    _print_front(study, supervisor)
    not_trained = f"{last.count('infeasible')} infeasible and {last.count('duplicate')} duplicate suggestions"
    counts = [
        f"{last.count('trained')} {study.space.done_word}",
        f"{last.count('paused')} paused{_saved(study, last)}",
        f"{last.count('failed')} failed",
        f"{not_trained} were not trained",
    ]
    if study.settings.sampler == MILP:  # suggests neither, and designs are not stopped
        counts = [counts[0], counts[2]]
    console.print(f"{', '.join(counts)}; took {duration(last.elapsed)}")
    if supervisor.target is not None and last.counted < supervisor.target:
        what = "architectures" if study.space.library is None else "designs"
        why = "time limit reached" if supervisor.timed_out else supervisor.last_output().splitlines()[-1]
        console.print(
            f"[yellow]{supervisor.target - last.counted} {what} short of the target: {escape(why)}[/]"
        )
    exit_if_died(supervisor)
    if supervisor.timed_out and not last.count("trained"):
        verb = study.space.done_word
        errors.print(f"nothing is {verb} yet; run the same command to continue, with more time or trials:")
        errors.print(f"  [bold]{escape(own_command())}[/]", soft_wrap=True)
        raise typer.Exit(1)
    if study.space.library is not None and (text := only_to_beat(last.records)):
        console.print(f"[yellow]{text}[/]", soft_wrap=True)
    where = "" if runs == DEFAULT_RUNS else f" --dir {runs}"
    scores = f"[bold]nas show {study.name}{where} --scores[/], " if study.space.replacements else ""
    console.print(
        f"next: [bold]nas front {study.name}{where}[/], {scores}"
        f"[bold]nas pick {study.name}{where} -o pick.yaml[/], [bold]nas dashboard {study.name}{where}[/]",
        soft_wrap=True,
    )
