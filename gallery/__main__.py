"""The commands of the gallery; see the package's documentation."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import gallery
from gallery.runs import RUNS, Run, select
from gallery.stored import RESULTS, path_of, save
from gallery.train import train


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=(gallery.__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the runs")
    training = commands.add_parser("train", help="train what is not there yet")
    training.add_argument("patterns", nargs="*", help="names or patterns such as 'lenet-*'; none means all")
    training.add_argument("--preset", choices=("full", "small"), default="full", help="small takes some minutes")
    training.add_argument("--data", type=Path, help="folder with cifar10/, mnist/, modelnet10/, sst2/")
    training.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    training.add_argument("--outputs", type=Path, help="folder for the masked outputs too, some megabytes a run")
    training.add_argument("--threads", type=int, default=1, help="the stored results were made with one")
    chosen = parser.parse_args(arguments)
    if chosen.command == "list":
        print("\n".join(describe(run) for run in RUNS))
        return 0
    try:
        runs = select(chosen.patterns, small=chosen.preset == "small")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(chosen.threads)
    for run in runs:
        if path_of(run.name, chosen.results).exists():
            print(f"{run.name}: there already", flush=True)
            continue
        started = time.perf_counter()
        try:
            stored = train(run, data=chosen.data, outputs=chosen.outputs)
        except FileNotFoundError as error:
            print(f"{run.name}: skipped, {error}", flush=True)
            continue
        target = save(stored, chosen.results)
        print(f"{run.name}: {time.perf_counter() - started:.0f} s, {target.stat().st_size // 1024} kB", flush=True)
    return 0


def describe(run: Run) -> str:
    """Say in a line what a run is."""
    return (
        f"{run.name:28} {run.network:14} {run.dataset:14} {run.n_train:6} samples  {run.wrong_labels:4.0%} wrong  "
        f"{run.epochs} epochs  {run.expectation}{'  (held out)' if run.held_out else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
