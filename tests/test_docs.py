"""The code blocks of the README and the documentation run as they stand."""

import argparse
import csv
import importlib
import os
import pkgutil
import re
import shlex
import statistics
import sys
from pathlib import Path

import pytest

from interaction_monitor import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def python_blocks(page: Path) -> list[str]:
    # Blocks with prompts are doctests, which pytest runs by itself.
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if ">>>" not in block]


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.stem)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in python_blocks(page):
        exec(compile(block, os.fspath(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


class ParsedError(Exception):
    """The command line was understood."""


def commands(page, *programs):
    """Give the commands on a page that begin with one of the programs, in blocks and in the running text."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (?=\S)(.*)$", text, flags=re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [
        line for block in [*blocks, *indented, *spans] for line in (block.splitlines() if block in blocks else [block])
    ]
    found = [" ".join(line.split()).split(" #")[0] for line in lines]
    return [
        line for line in dict.fromkeys(found) if line.startswith(programs) and "[" not in line and "NAME" not in line
    ]


# What only names a command, without its arguments, is none.
DOCUMENTED = sorted(
    {
        command
        for page in PAGES
        for command in commands(page, "python -m examples.", "interaction-monitor ")
        if "--help" not in command and not re.fullmatch(r"interaction-monitor \w+", command)
    }
)


def test_commands_are_found():
    assert len(DOCUMENTED) > 40
    assert "interaction-monitor theory RUN --and-part" in DOCUMENTED
    assert "python -m examples.mnist --data FOLDER --network vgg11" in DOCUMENTED


@pytest.mark.parametrize("command", DOCUMENTED)
def test_each_documented_command_is_understood(command, monkeypatch, tmp_path):
    understand = argparse.ArgumentParser.parse_args

    def parse_args(self, *given, **named):
        understand(self, *given, **named)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # the examples are not installed
    words = shlex.split(command)
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[2:])
        run = importlib.import_module(words[2]).main
    else:
        monkeypatch.setattr(sys, "argv", words)
        run = cli.main
    with pytest.raises(ParsedError):
        run()


def test_each_documented_script_of_evidence_is_there_and_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    called = {command for page in PAGES for command in commands(page, "python -m benchmarks", "python -m gallery")}
    assert "python -m benchmarks three_phases" in called
    scripts = [words[2:] for words in map(shlex.split, called)]
    names = {f"benchmarks.{name}" for script, *given in scripts if script == "benchmarks" for name in given}
    names |= {script for script, *_ in scripts if "." in script}
    for package in (importlib.import_module(name) for name in ("benchmarks", "gallery", "examples")):
        names |= {module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
    assert len(names) > 50
    for name in sorted(names):
        if not name.endswith("__main__"):
            importlib.import_module(name)


@pytest.mark.parametrize(
    ("title", "name", "steps", "measurements"),  # steps of an epoch
    [
        ("BERT-Tiny on the whole of SST-2", "sst2_bert_tiny", 527, 18),
        ("VGG-11 on the whole of MNIST", "mnist_vgg11", 469, 25),
        ("VGG-11 on CIFAR-10", "cifar10_vgg11", 79, 19),
    ],
)
def test_the_table_of_a_system_of_the_papers_is_what_is_stored(title, name, steps, measurements):
    section = (ROOT / "docs/papers.md").read_text().split(f"## {title}")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if re.match(r"\| [\d.]+ \|", line)]
    with (ROOT / f"examples/results/{name}.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert len(table) == len(stored) == measurements
    for cells, row in zip(table, stored, strict=True):
        epoch, mean_order, first, *_, train, test, _cosine, _sigma2 = (cell.strip() for cell in cells)
        assert float(epoch) == pytest.approx(int(row["step"]) / steps, abs=0.01)  # one step later than the epoch's end
        assert mean_order == f"{float(row['mean_order']):.2f}"
        assert first == f"{float(row['order_1']) / 10:.0%}"
        for cell, name in ((train, "train_loss"), (test, "test_loss")):
            assert cell == (f"{float(row[name]):.3f}" if row[name] else "")


def test_what_the_page_says_of_200_prompts_is_what_is_stored():
    page = (ROOT / "docs/examples.md").read_text().split("## A language model, measured without training")[1]
    with (ROOT / "examples/results/smollm2_squad.csv").open() as file:
        prompts = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    salient = [prompt["salient"] for prompt in prompts]
    by_order = [sum(prompt[f"order_{order}"] for prompt in prompts) for order in range(1, 11)]
    mean_order = sum(order * strength for order, strength in enumerate(by_order, start=1)) / sum(by_order)
    assert f"⟨k⟩ = {mean_order:.2f} (95%" in page
    assert f"{statistics.mean(salient):.0f} of 2,046 interactions are salient in the mean" in page
    assert f"(half of the prompts have {statistics.median(salient):.0f} or fewer)" in page
    shares = re.search(r"\| share \|(.*)\|", page)[1].split("|")
    rounded = [f"{strength / sum(by_order):.0%}" for strength in by_order[:8]]
    assert [share.strip() for share in shares[:8]] == rounded


@pytest.mark.parametrize(("place", "name"), [(1, "resnet20"), (2, "vgg16")])
def test_the_tables_of_the_image_pair_are_what_is_stored(place, name):
    section = (ROOT / "docs/papers.md").read_text().split("## ResNet-20 and VGG-16 at full width")[1]
    table = section.split("| epoch |")[place].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    with (ROOT / f"examples/results/mnist3_{name}.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert len(rows) == len(stored) == 20
    for cells, row in zip(rows, stored, strict=True):
        shares = [float(row[f"order_{order}"]) / 8 for order in range(1, 9)]
        losses = [f"{float(row[loss]):.3f}" if row[loss] else "" for loss in ("train_loss", "test_loss")]
        expected = [*(f"{share:.0%}" for share in (*shares[:4], sum(shares[4:]))), f"{float(row['n_salient']):.0f}"]
        assert cells == [row["epoch"], f"{float(row['mean_order']):.2f}", *expected, *losses]


OF_THE_PAPERS = [
    command if command.startswith("interaction") else f"interaction-monitor {command}"
    for command in commands(ROOT / "docs/papers.md", "interaction-monitor ", "compare ")
    if "runs/" not in command
]


@pytest.mark.parametrize("command", OF_THE_PAPERS)
def test_each_command_for_a_figure_of_the_papers_runs(command, make_planted_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("interaction_monitor.plots.comparison_figures.draw_all", lambda *_: {})  # they take seconds
    monkeypatch.setattr("interaction_monitor.plots.comparison_text.write_comparison", lambda *_, **__: None)
    monkeypatch.setattr("interaction_monitor.report.comparison_page", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    for name in {"RUN", "A", "B"} & set(words):
        make_planted_run(tmp_path / name, samples=4)
    assert cli.main(words) == 0
    assert "nan" not in capsys.readouterr().out
