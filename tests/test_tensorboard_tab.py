"""The tab in TensorBoard: finds records, shows what they hold whatever that is, follows the run, and writes nothing."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

from interaction_monitor.record import Record
from interaction_monitor.tensorboard_tab import InteractionsPlugin, find_records

NAME = "interactions"


def client(folder):
    """What asks the plugin as TensorBoard does."""
    apps = InteractionsPlugin(SimpleNamespace(logdir=str(folder))).get_plugin_apps()
    return Client(lambda environ, start: apps[environ["PATH_INFO"]](environ, start))


def ask(folder, path, name=None):
    answer = client(folder).get(path, query_string={} if name is None else {"name": name})
    return answer.status_code, json.loads(answer.get_data(as_text=True))


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(Path(folder).rglob("*"))}


@pytest.fixture(scope="module")
def run(make_planted_run, tmp_path_factory):
    """A log folder with a record, which is only read."""
    folder = tmp_path_factory.mktemp("logs")
    make_planted_run(folder / NAME)
    return folder


def test_it_shows_a_run_in_words_and_figures_and_writes_nothing(run):
    before = contents(run)
    assert ask(run, "/runs") == (200, [NAME])
    code, page = ask(run, "/run", NAME)
    assert code == 200
    assert page["verdict"][0].startswith("Phase two began at epoch 2 (known at epoch 3)")
    assert page["measured"] == "6 measurements, the last at epoch 5"
    assert {"curves", "moments", "heat-map", "orders"} <= set(page["figures"])
    shares = page["figures"]["heat-map"]["panels"][0]["series"][0]["z"]
    first = Record.open(run / NAME).history.distribution[0]
    assert [row[0] for row in shares] == pytest.approx((first / 5).tolist(), abs=1e-5)
    _, theory = ask(run, "/theory", NAME)
    assert set(theory["figures"]) == {"theory-bars", "noise-level"}
    _, found = ask(run, "/samples", NAME)
    assert [(sample["sample"], sample["target"]) for sample in found["samples"]] == [(i, i) for i in range(3)]
    assert all(sample["picture"].startswith("data:image/png;base64,") for sample in found["samples"])
    assert contents(run) == before


def test_it_needs_no_extra(run, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("interaction_monitor.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)  # as if it were not installed
    for path in ("/run", "/samples", "/theory"):
        assert "error" not in ask(run, path, NAME)[1]


@pytest.mark.parametrize("name", ["../other", "/etc", "interactions/..", "", "nothing"])
def test_only_records_below_the_log_folder_are_read(run, name):
    assert ask(run, "/run", name) == (404, {"error": "there is no such run"})


def test_links_out_of_the_log_folder_are_not_followed(run, tmp_path):
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    assert find_records(tmp_path) == {}
    plugin = InteractionsPlugin(SimpleNamespace(logdir=str(tmp_path)))
    assert not plugin.is_active()
    assert not InteractionsPlugin(SimpleNamespace(logdir=None)).is_active()


@pytest.mark.parametrize("damage", ["history.csv", "run.json", "players.npz"])
def test_a_damaged_record_says_so_and_leaves_the_others(run, tmp_path, damage):
    shutil.copytree(run / NAME, tmp_path / "good" / NAME)
    shutil.copytree(run / NAME, tmp_path / "bad" / NAME)
    (tmp_path / "bad" / NAME / damage).write_bytes(b"\x00<script>alert(1)</script>")
    assert ask(tmp_path, "/runs")[1] == ["bad/interactions", "good/interactions"]
    for path in ("/run", "/samples", "/theory"):
        code, answer = ask(tmp_path, path, "bad/interactions")
        assert code == 200
        assert answer
    assert "error" in ask(tmp_path, "/samples", "bad/interactions")[1]
    assert "verdict" in ask(tmp_path, "/run", "good/interactions")[1]


def test_a_run_without_measurements_waits(run, tmp_path):
    shutil.copytree(run / NAME, tmp_path / NAME)
    (tmp_path / NAME / "history.csv").unlink()
    shutil.rmtree(tmp_path / NAME / "measurements")
    assert "error" in ask(tmp_path, "/run", NAME)[1]


def test_script_and_style_need_nothing_from_elsewhere(run):
    for path, kind in (("/index.js", "application/javascript"), ("/style.css", "text/css")):
        answer = client(run).get(path)
        assert answer.status_code == 200
        assert answer.content_type.startswith(kind)
        text = answer.get_data(as_text=True)
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in text


def test_tensorboard_finds_it_and_loads_nothing_heavy():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["tensorboard_plugins"]["interactions"].partition(":")
    assert getattr(import_module(module), name) is InteractionsPlugin
    code = f"import sys, {module}; assert not {{'torch', 'lightning', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.browser
def test_clicked_through_in_a_browser(run, browser, tmp_path):
    """The tab draws two runs, one of which goes on; it asks nobody else, and follows TensorBoard's dark mode."""
    from tensorboard import default, program

    for name in ("first", "second"):
        shutil.copytree(run / NAME, tmp_path / name / NAME)
    later = tmp_path / "second" / NAME
    history = (later / "history.csv").read_text().splitlines(keepends=True)
    (later / "history.csv").write_text("".join(history[:-1]))
    board = program.TensorBoard(plugins=[*default.get_static_plugins(), InteractionsPlugin])
    board.configure(argv=[None, "--logdir", str(tmp_path), "--port", "0", "--load_fast=false"])
    url = board.launch()
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    elsewhere, complaints = [], []
    tab.on("request", lambda r: None if r.url.startswith((url, "data:")) else elsewhere.append(r.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(f"{url}?darkMode=true#interactions")
    frame = tab.frame_locator("iframe")
    frame.locator(".run").nth(1).locator("[data-figure=orders] svg[tabindex]").wait_for(timeout=90_000)
    second = frame.locator(".run").nth(1)
    assert "5 measurements, the last at epoch 4" in second.inner_text()
    assert frame.locator("html.dark").count() == 1
    (later / "history.csv").write_text("".join(history))
    second.get_by_text("6 measurements, the last at epoch 5").wait_for(timeout=90_000)
    frame.locator("input[type=checkbox]").first.uncheck()
    frame.locator(".run").nth(1).wait_for(state="detached", timeout=30_000)
    frame.locator(".run summary").first.click()
    frame.locator(".sample img").first.wait_for(timeout=90_000)
    assert elsewhere == []
    assert complaints == []
