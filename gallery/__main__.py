"""The commands of the gallery; see the package's documentation."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import torch

import gallery
from gallery.runs import RUNS, Run, select
from gallery.stored import RESULTS, UnusableError, keeping_outputs, load, path_of, save

DOCS = RESULTS.parent.parent / "docs"
PAGES = (DOCS / "gallery.md", DOCS / "gallery_runs.md")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=(gallery.__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="name the runs, and say which are stored")
    listing.add_argument("--results", type=Path, default=RESULTS, help="where the results are")
    training = commands.add_parser("train", help="train what is not there yet")
    training.add_argument("patterns", nargs="*", help="names or patterns such as 'lenet-*'; none means all")
    training.add_argument("--preset", choices=("full", "small"), default="full", help="small takes some minutes")
    training.add_argument("--data", type=Path, help="folder with cifar10/, mnist/, modelnet10/, sst2/")
    training.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    training.add_argument("--outputs", type=Path, help="folder for the masked outputs too, some megabytes a run")
    training.add_argument("--threads", type=int, default=1, help="the stored results were made with one")
    analysing = commands.add_parser("analyse", help="put the tables into docs/gallery.md and gallery_runs.md")
    analysing.add_argument("--results", type=Path, default=RESULTS, help="where the results are")
    analysing.add_argument("--print", action="store_true", help="print the tables and leave the page alone")
    commands.add_parser("figures", help="draw the pictures of docs/gallery.md")
    for name, explained in (("players", "analyse with fewer players"), ("spindle", "compare extractions at the start")):
        command = commands.add_parser(name, help=f"{explained}, from masked outputs")
        command.add_argument("run", help="a run of eight players or more")
        command.add_argument("--outputs", type=Path, required=True, help="what train --outputs wrote")
        command.add_argument("--results", type=Path, default=RESULTS, help="where the results are and go")
    chosen = parser.parse_args(arguments)
    commands_by_name = {"list": _list, "train": _train, "analyse": _analyse, "figures": _figures}
    try:
        return commands_by_name.get(chosen.command, _from_outputs)(chosen)
    except UnusableError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("python -m gallery: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _list(chosen: argparse.Namespace) -> int:
    states = [_state(run, chosen.results) for run in RUNS]
    for run, state in zip(RUNS, states, strict=True):
        print(f"{state:7} {describe(run)}")
    count = f"{states.count('stored')} of {len(RUNS)}"
    print(f"\n{count} are stored in {chosen.results}; python -m gallery train makes the others")
    return 0


def _state(run: Run, results: Path) -> str:
    path = path_of(run.name, results)
    if not path.exists():
        return "-"
    try:
        load(path)
    except UnusableError:
        return "broken"
    return "stored"


def _train(chosen: argparse.Namespace) -> int:
    from gallery.train import train

    try:
        runs = select(chosen.patterns, small=chosen.preset == "small")
    except ValueError as error:
        return _refuse(str(error))
    if chosen.data is not None and not chosen.data.is_dir():
        return _refuse(f"--data {chosen.data} is no folder; docs/examples.md says what to put into one")
    if chosen.threads < 1:
        return _refuse(f"--threads {chosen.threads} is less than one; give 1 or more")
    torch.set_num_threads(chosen.threads)
    for run in runs:
        state = _state(run, chosen.results)
        if state == "stored":
            lacking = chosen.outputs is not None and not path_of(run.name, chosen.outputs).exists()
            hint = f"; {keeping_outputs(run.name, chosen.outputs)}" if lacking else ""
            print(f"{run.name}: there already{hint}", flush=True)
            continue
        if state == "broken":
            print(f"{run.name}: the file is broken, so it is trained again", flush=True)
        started = time.perf_counter()
        try:
            unfinished = chosen.results / f"{run.name}.unfinished"
            stored = train(run, data=chosen.data, outputs=chosen.outputs, unfinished=unfinished)
        except FileNotFoundError as error:
            print(f"{run.name}: skipped, {error}", flush=True)
            continue
        target = save(stored, chosen.results)
        print(f"{run.name}: {time.perf_counter() - started:.0f} s, {target.stat().st_size // 1024} kB", flush=True)
    return 0


def _analyse(chosen: argparse.Namespace) -> int:
    from gallery.tables import all_tables

    if not any(chosen.results.glob("*.npz")):
        return _refuse(f"no results in {chosen.results}; python -m gallery train --results FOLDER makes some")
    tables = all_tables(chosen.results)
    if chosen.print:
        print("\n\n".join(f"{name}\n\n{text}" for name, text in tables.items()))
    else:
        for page in PAGES:
            page.write_text(fill(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
            print(f"wrote the tables of {page}")
    return 0


def fill(text: str, tables: dict[str, str]) -> str:
    """Put tables between their markers.

    Args:
        text: a page with `<!-- table: NAME -->` and `<!-- end -->`.
        tables: name to Markdown.

    Returns:
        The page.

    Raises:
        KeyError: if the page asks for a table that there is not.

    Examples:
        >>> fill("<!-- table: a -->old<!-- end -->", {"a": "new"}).split()
        ['<!--', 'table:', 'a', '-->', 'new', '<!--', 'end', '-->']
    """
    return re.sub(
        r"(<!-- table: (.+?) -->).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def _figures(_: argparse.Namespace) -> int:
    from gallery.figures import write_all

    print("\n".join(map(str, write_all())))
    return 0


def _from_outputs(chosen: argparse.Namespace) -> int:
    from gallery import fewer_players, spindle

    if chosen.run not in {run.name for run in RUNS}:
        return _refuse(f"no run is called {chosen.run!r}; python -m gallery list names them")
    torch.set_num_threads(1)
    if chosen.command == "spindle":
        print(spindle.keep(chosen.outputs, chosen.run, chosen.results))
        return 0
    path = path_of(chosen.run, chosen.results)
    if not path.exists():
        return _refuse(f"no {path}; python -m gallery train {chosen.run} --results {chosen.results} makes it")
    whole = load(path)
    for n_players in range(6, whole.run.n_players, 2):
        fewer = fewer_players.with_players(whole, chosen.outputs, n_players)
        print(save(fewer, fewer_players.folder_in(chosen.results)))
    return 0


def _refuse(message: str) -> int:
    print(f"python -m gallery: error: {message}", file=sys.stderr)
    return 2


def describe(run: Run) -> str:
    """Say in a line what a run is."""
    return (
        f"{run.name:28} {run.network:14} {run.dataset:14} {run.n_train:6} samples  {run.wrong_labels:4.0%} wrong  "
        f"{run.epochs} epochs  {run.expectation}  ({run.part})"
    )


if __name__ == "__main__":
    sys.exit(main())
