"""The report: whole, offline, safe with whatever a record holds, and alive in a browser."""

import json
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from interaction_monitor import cli
from interaction_monitor.console import verdict
from interaction_monitor.functional import matching_error, matching_precision
from interaction_monitor.history import History
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots import comparison_figures
from interaction_monitor.plots.browser_figures import numbers as numbers_of
from interaction_monitor.plots.sample_figures import strongest
from interaction_monitor.plots.sample_inputs import choose, image_of, outline
from interaction_monitor.plots.theory_figures import for_browser
from interaction_monitor.probe import Probe
from interaction_monitor.report import _flat, as_json, check, report_page
from interaction_monitor.theory import fit_record

FIGURES = {
    "moments", "curves", "heat-map", "orders", "theory-bars", "noise-level", "matching-error", "solver-gap", "sparsity",
    "precision", "noise-floor",
}  # fmt: skip
REPORT = "<!DOCTYPE html>\n<html><head><title>Interactions of version_0</title></head></html>"


class Page(HTMLParser):
    """What the tests ask of a page: tags with their attributes, the text outside scripts, and the figures."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.tags, self.text, self.scripts = [], "", []
        self._script = self._id = None
        self.feed(html)
        self.figures = {name[7:]: json.loads(text) for name, text in self.scripts if name}

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "script":
            self._script, self._id = "", attributes.get("id")

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append((self._id, self._script))
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self._script += data


def numbers(values):
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def named(figure):
    """The curves, bars and bands of a figure by their names."""
    return {series["name"]: series for panel in figure["panels"] for series in panel["series"]}


@pytest.fixture(scope="module")
def record(make_planted_run, tmp_path_factory):
    """A record that is only read."""
    return make_planted_run(tmp_path_factory.mktemp("planted") / "interactions")


@pytest.fixture(scope="module")
def page(record):
    return Page(report_page(record))


class TestPage:
    def test_has_every_figure_once_and_a_place_for_it(self, page):
        assert set(page.figures) == FIGURES
        places = [attributes["data-figure"] for _, attributes in page.tags if "data-figure" in attributes]
        assert sorted(places) == sorted(FIGURES)

    def test_needs_nothing_else(self, page):
        for tag, attributes in page.tags:
            assert tag not in {"link", "iframe", "object", "embed", "base"}
            for name in ("src", "href", "srcset", "action", "data", "poster"):
                assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
        policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy
        nonces = {attributes["nonce"] for tag, attributes in page.tags if tag == "script"}
        assert len(nonces) == 1
        assert f"script-src 'nonce-{nonces.pop()}'" in policy

    def test_tells_the_run_in_words(self, page):
        text = " ".join(page.text.split())
        assert "Phase two began at epoch 2 (known at epoch 3)" in text
        assert "Onset of phase two: epoch 2, known at epoch 3." in text
        assert (
            "The gap between test and training loss opened at epoch 0; its rise begins 2 epochs before the onset."
            in text
        )
        assert "Worst match in phase two: cosine 0.99" in text
        assert "section 3.3.3" in text

    def test_the_slider_has_every_measurement(self, record, page):
        frames = page.figures["orders"]["frames"]
        assert len(frames) == len(record.history)
        for index, (frame, row) in enumerate(zip(frames, record.history, strict=True)):
            np.testing.assert_allclose(numbers(frame["series"][0]["y"]), np.array(row.distribution) / 5, atol=1e-5)
            assert frame["title"].startswith(f"epoch {index}")
            assert frame["title"].endswith(f"{row.mean_order:.2f}")
        assert "onset of phase two" in frames[2]["title"]
        assert page.figures["orders"]["first"] == 2

    def test_the_first_screen_has_the_moments_and_what_to_do(self, record, page):
        titles = [panel["title"] for panel in page.figures["moments"]["panels"]]
        assert [title.split(":")[0] for title in titles] == [
            "epoch 0, the start", "epoch 1, phase one", "epoch 2, the onset of phase two",
            *(f"epoch {epoch}, phase two" for epoch in (3, 4, 5)),
        ]  # fmt: skip
        first = page.html[: page.html.index("<details")]
        assert 'class="verdict"' in first
        assert "Go on and watch the loss gap" in first, "test loss never lay below training loss here"
        assert first.count("data-figure") == 2

    def test_menu_and_page_have_one_order(self, page):
        menu = [a["href"][1:] for tag, a in page.tags if tag == "a" and a.get("href", "").startswith("#")]
        assert menu == [a["id"] for tag, a in page.tags if tag == "details" and "id" in a]

    def test_it_is_small(self, page):
        assert len(page.html.encode()) < 2e6

    def test_the_heat_map_has_a_column_per_measurement(self, record, page):
        (series,) = page.figures["heat-map"]["panels"][0]["series"]
        np.testing.assert_array_equal(numbers(series["x"]), record.history.epochs)
        np.testing.assert_allclose([numbers(row) for row in series["z"]], record.history.distribution.T / 5, atol=1e-5)

    def test_the_curves_are_the_history(self, record, page):
        curves = named(page.figures["curves"])
        for name, column in (
            ("mean order ⟨k⟩", "mean_order"),
            ("train loss", "train_loss"),
            ("test loss", "test_loss"),
        ):
            np.testing.assert_allclose(numbers(curves[name]["y"]), record.history.column(column), rtol=1e-5)
        assert page.figures["curves"]["phases"] == [[None, 2, "one"], [2, None, "two"]]
        assert [(mark["x"], mark["color"]) for mark in page.figures["curves"]["marks"]] == [(2, "onset"), (0, "gap")]

    def test_the_theory_is_the_overlay(self, record, page):
        overlay = fit_record(record)
        predicted = [panel["series"][1] for panel in page.figures["theory-bars"]["panels"]]
        np.testing.assert_allclose(numbers(predicted[3]["y"]), overlay.fit.theory[3] / 5, atol=1e-5)
        names = [series["name"] for series in predicted]
        assert names == ["predicted, phase one (no claim)"] * 2 + ["predicted, phase two"] * 4
        assert page.figures["theory-bars"]["panels"][-1]["title"].endswith("predicted from itself")

    def test_where_nothing_is_salient_there_is_no_noise_level(self, record):
        overlay = fit_record(record)
        known = torch.arange(len(record.history)) != 1
        fit = overlay.fit
        none = {name: getattr(fit, name).where(known, torch.nan) for name in ("sigma2", "low", "high")}
        figure = for_browser(replace(overlay, fit=replace(fit, **none)))["noise-level"]
        json.loads(as_json(figure))  # which has no NaN
        ranges = [series for series in figure["panels"][0]["series"] if series["kind"] == "range"]
        assert [low for series in ranges for low in series["low"]].count(None) == 1

    def test_whatever_a_record_holds_is_text(self, planted_run):
        evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
        players = PlayerMap(
            torch.arange(5).repeat(12, 1), n_players=5, axes=(1,), layer=evil, names=((evil,) * 5,) * 12
        )
        settings = {"output": evil, evil: {"deeper " + evil: [evil]}}
        record = planted_run(settings=settings, players=players, probe=Probe(torch.rand(12, 5), torch.arange(12) % 3))
        html = report_page(record)
        page = Page(html)
        assert evil in page.text
        assert "alert(1)" not in "".join(text for _, text in page.scripts)
        assert not any("onerror" in attributes for _, attributes in page.tags)
        assert {tag for tag, _ in page.tags if tag == "img"} == set()
        assert len(page.scripts) == len(FIGURES) + 2

    def test_a_figure_cannot_end_its_script(self):
        name = "</script><script>alert(1)</script>"
        written = as_json({"name": name, "y": numbers_of([1.0, float("nan"), float("inf")])})
        assert "<" not in written
        assert json.loads(written) == {"name": name, "y": [1.0, None, None]}

    def test_losses_and_onset_may_be_unknown(self, planted_run):
        record = planted_run(onset=None)
        record.history = History(replace(row, train_loss=None, test_loss=None) for row in record.history)
        page = Page(report_page(record))
        assert "No onset of phase two was found." in page.text
        assert "train loss" not in named(page.figures["curves"])

    def test_and_alone_has_no_gap(self, planted_run):
        page = Page(report_page(planted_run(kind="and")))
        places = {attributes["data-figure"] for _, attributes in page.tags if "data-figure" in attributes}
        assert places == FIGURES - {"solver-gap"}


def with_turnover(record, **more):
    """The same run, whose rows know what persisted."""
    rows = [
        replace(row, persisted=tuple(0.5 * x for x in row.strength), vanished=(0.25,) * 5, **more) if row.epoch else row
        for row in record.history
    ]
    record.history = History(rows)
    return record


class TestWhatWillHold:
    def test_is_told_beside_references(self, planted_run):
        record = planted_run()
        rows = [
            replace(
                row,
                generalizing=tuple(0.5 * x for x in row.strength),
                **dict.fromkeys(("generalizing_share", "generalizing_low", "generalizing_high"), 0.5),
                overfitting_epoch=2 if row.epoch >= 4 else None,
                overfitting_detected_epoch=4 if row.epoch >= 4 else None,
            )
            for row in record.history
        ]
        record.history = History(rows)
        page = Page(report_page(record))
        assert set(page.figures) == FIGURES | {"generalizing", "generalizing-orders"}
        curve = named(page.figures["generalizing"])["generalizing share"]
        np.testing.assert_allclose(numbers(curve["y"]), 0.5)
        assert "ver-fitting began at epoch 2 (known at 4)" in page.text


class TestWhatCarriesOver:
    def test_is_told_where_it_is_known(self, planted_run):
        record = with_turnover(planted_run())
        page = Page(report_page(record))
        assert set(page.figures) == FIGURES | {"turnover", "persisted", "effects"}
        assert "Training samples were not measured" in page.text
        parts = named(page.figures["turnover"])
        strength = record.history.strength[1:].sum(1)
        np.testing.assert_allclose(
            numbers(parts["persisted"]["high"])[1:], 0.5 * strength / (strength + 1.25), rtol=1e-4
        )
        np.testing.assert_allclose(numbers(parts["vanished"]["high"])[1:], 1.0)
        assert parts["vanished"]["low"] == parts["appeared"]["high"]
        (panel,) = page.figures["effects"]["panels"]
        assert "effect" in panel["y"]["label"]
        drawn = numbers(panel["series"][0]["y"])
        np.testing.assert_allclose(drawn, record.history.by_order("effect")[:, :1].sum(1), rtol=1e-5)
        assert page.figures["persisted"]["panels"][0]["series"][0]["z"]

    def test_training_samples_lie_beside_the_others(self, planted_run):
        known = {"train_strength": (1.0,) * 5, "train_effect": (1.0, 0.5, 0.25, 0.0, 0.0), "similarity": (0.5,) * 5}
        page = Page(report_page(with_turnover(planted_run(), **known)))
        assert "Training samples were not measured" not in page.text
        assert "similarity" in page.figures
        names = list(named(page.figures["effects"]))
        assert names[2:4] == ["order 1, training samples", "orders 2 and above, training samples"]
        assert named(page.figures["effects"])[names[3]]["y"] == [0.75] * 5


class TestOtherNetworks:
    def test_what_they_share_is_told(self, planted_run, make_planted_run, tmp_path, monkeypatch):
        monkeypatch.setattr(
            comparison_figures, "draw_all", lambda comparison: dict.fromkeys(comparison_figures.PICTURES, b"")
        )
        record = planted_run()
        other = make_planted_run(tmp_path / "other" / "interactions", levels=(0.3, 0.1))
        page = Page(report_page(record, [other]))
        assert set(page.figures) == FIGURES
        assert ("a", {"href": "#comparison"}) in page.tags
        assert "other, epoch 3" in page.text
        assert "More AND interactions are shared if extracted together" in page.text
        pictures = [a for tag, a in page.tags if tag == "img" and "Strength of each order and sign" in a["alt"]]
        assert len(pictures) == 1

    def test_the_command_refuses_networks_on_other_samples(self, planted_run, make_planted_run, tmp_path, capsys):
        record = planted_run()
        probe = Probe(record.probe_inputs + 1, record.probe_targets)
        other = make_planted_run(tmp_path / "other" / "interactions", probe=probe)
        out = tmp_path / "report.html"
        assert cli.main(["report", str(record.folder), "--with", str(other.folder), "--out", str(out)]) == 2
        assert "differ in the probe samples" in capsys.readouterr().err
        assert not out.exists()


class TestCommand:
    def test_writes_one_file(self, planted_run, tmp_path, capsys):
        record = planted_run()
        before = sorted(record.folder.iterdir())
        out = tmp_path / "new" / "run.html"
        assert cli.main(["report", str(tmp_path), "--out", str(out)]) == 0
        assert str(out) in capsys.readouterr().out
        assert out.stat().st_size < 2e6
        assert sorted(record.folder.iterdir()) == before
        assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

    def test_a_folder_is_no_file(self, planted_run, tmp_path, capsys):
        assert cli.main(["report", str(planted_run().folder), "--out", str(tmp_path)]) == 2
        assert "is a folder" in capsys.readouterr().err

    @pytest.mark.parametrize("content", [b"weights", b"", b"<!DOCTYPE html><title>My page</title>"])
    def test_replaces_reports_only(self, planted_run, tmp_path, capsys, monkeypatch, content):
        monkeypatch.setattr("interaction_monitor.report.report_page", lambda record, others: REPORT)
        folder, out = str(planted_run().folder), tmp_path / "small.ckpt"
        out.write_bytes(content)
        assert cli.main(["report", folder, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert "small.ckpt is there already and is no report; give --out another name" in error
        assert out.read_bytes() == content
        out.unlink()
        for _ in range(2):
            assert cli.main(["report", folder, "--out", str(out)]) == 0
            assert out.read_text() == REPORT

    def test_what_it_wrote_it_replaces(self, planted_run):
        folder = planted_run().folder
        for _ in range(2):
            assert cli.main(["report", str(folder)]) == 0

    def test_a_report_that_is_refused_leaves_no_folder(self, planted_run, tmp_path, capsys):
        record = planted_run(n=1)
        assert cli.main(["report", str(record.folder), "--out", str(tmp_path / "new" / "run.html")]) == 2
        assert not (tmp_path / "new").exists()

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no such folder")
    def test_a_place_that_takes_no_files(self, planted_run, monkeypatch, capsys):
        monkeypatch.setattr("interaction_monitor.report.report_page", lambda record, others: REPORT)
        assert cli.main(["report", str(planted_run().folder), "--out", "/proc/x.html"]) == 2
        assert "choose another place by --out" in capsys.readouterr().err

    def test_says_how_to_get_jinja(self, planted_run, monkeypatch, capsys):
        monkeypatch.setattr(cli, "find_spec", lambda name: None)
        assert cli.main(["report", str(planted_run().folder)]) == 2
        assert "pip install 'interaction-monitor[report]'" in capsys.readouterr().err


class TestChecks:
    def test_agree_with_what_they_are_made_of(self, planted_run):
        record = planted_run()
        measurements = list(record.measurements)
        measurements[4].v[7] += 0.25  # an output that the interactions do not explain
        checks = check(measurements, [0, 2, 5])
        v, and_, or_ = measurements[4].v, measurements[4].and_, measurements[4].or_
        change = (v[:, -1] - v[:, 0]).abs()
        np.testing.assert_allclose(checks.worst_error[4], (matching_error(v, and_, or_) / change).max())
        assert checks.worst_error[4] > 0.01
        assert (checks.worst_error[[0, 1, 2, 3, 5]] < 1e-12).all()
        last = measurements[5]
        for i, rank in enumerate(checks.ranks):
            expected = matching_precision(last.v, last.and_, last.or_, int(rank)).mean()
            np.testing.assert_allclose(checks.precision[2, i], expected)
        pooled = torch.cat([last.and_[:, 1:], last.or_[:, 1:]], 1).abs().sort(descending=True).values.mean(0)
        np.testing.assert_allclose(checks.strength[2], pooled[checks.ranks - 1] / last.tau)
        assert checks.ranks[0] == 1
        assert checks.ranks[-1] == 62

    def test_sizes_and_floors(self, planted_run):
        last = planted_run().measurements[5]
        checks = check([last], [0])
        pairs = torch.tensor([bin(i).count("1") == 2 for i in range(32)])
        both = torch.cat([last.and_[:, pairs], last.or_[:, pairs]])
        np.testing.assert_allclose(checks.size[1], both.square().mean().sqrt())
        typical = float(last.v.square().mean().sqrt())
        np.testing.assert_allclose(checks.floors["bfloat16"][1], typical * 2**-8 * 2)
        assert checks.tau == last.tau

    def test_leave_out_samples_that_diverged(self, planted_run):
        last = planted_run().measurements[5]
        clean = check([last], [0])
        for part in (last.v, last.and_, last.or_):
            part[3] = torch.nan
        last.valid[3] = False
        assert np.isfinite(check([last], [0]).strength).all()
        assert not np.array_equal(check([last], [0]).strength, clean.strength)


class TestSamples:
    def test_strongest_first_of_both_kinds(self, planted_run):
        last = planted_run().measurements[5]
        found = strongest(last, 4, 5)
        sizes = [abs(interaction.effect) for interaction in found]
        assert sizes == sorted(sizes, reverse=True)
        pooled = torch.cat([last.and_[4, 1:], last.or_[4, 1:]]).abs().sort(descending=True).values
        np.testing.assert_allclose(sizes, pooled[:5])
        for interaction in found:
            index = sum(1 << player for player in interaction.players)
            table = last.and_ if interaction.kind == "AND" else last.or_
            assert float(table[4, index]) == interaction.effect

    def test_outline_goes_around(self):
        ring = np.ones((3, 3), dtype=bool)
        ring[1, 1] = False
        assert len(outline(ring)) == 12 + 4
        for (x0, y0), (x1, y1) in outline(np.array([[False, True]])):
            assert {x0, x1} <= {0.5, 1.5}
            assert {y0, y1} <= {-0.5, 0.5}
            assert abs(x0 - x1) + abs(y0 - y1) == 1

    def test_samples_of_different_classes(self):
        targets = torch.tensor([3, 3, 1, 1, 2, 2])
        assert choose(torch.ones(6, dtype=torch.bool), targets, 4) == [0, 2, 4]
        assert choose(torch.ones(6, dtype=torch.bool), None, 2) == [0, 5]

    @pytest.mark.parametrize(
        ("shape", "axes", "layer", "expected"),
        [
            ((2, 1, 6, 8), (2, 3), None, (6, 8)),
            ((2, 3, 6, 8), (2, 3), "conv", (6, 8, 3)),
            ((2, 6, 8, 3), (1, 2), None, (6, 8, 3)),
            ((2, 6, 8, 3), (2, 3), "conv", (6, 8, 3)),
            ((2, 12, 6, 8), (2, 3), None, (6, 8)),
            ((2, 40), (2, 3), "conv", None),
        ],
    )
    def test_images_of_any_layout(self, shape, axes, layer, expected):
        players = PlayerMap(torch.tensor([[[0, 1], [2, -1]]] * 2), n_players=3, axes=axes, layer=layer)
        image = image_of(torch.randn(shape), players, 1)
        assert expected == (None if image is None else tuple(n for n in image.shape if n > 1))
        if image is not None:
            assert image.min() == 0
            assert image.max() == 1

    def test_players_that_are_patches_are_drawn(self, page):
        pictures = [attributes for tag, attributes in page.tags if tag == "img"]
        assert len(pictures) == 3  # a sample of each class
        assert all(attributes["alt"] for attributes in pictures)

    def test_players_that_are_words_are_named(self, planted_run):
        words = tuple(tuple(f"word{sample}-{i}" for i in range(5)) for sample in range(12))
        named = planted_run(
            players=PlayerMap(torch.arange(5).repeat(12, 1), n_players=5, axes=(1,), input_key="ids", names=words),
            probe=Probe({"ids": torch.zeros(12, 5, dtype=torch.int64)}, torch.arange(12) % 3),
        )
        page = Page(report_page(named))
        assert not [tag for tag, _ in page.tags if tag == "img"]
        best = strongest(named.measurements[5], 0, 1)[0]
        assert ", ".join(f"word0-{player}" for player in best.players) in page.text


def eventually(tab, condition, seconds=60):
    """Wait for something to become true. The driver's own way runs inside the page, whose policy forbids that."""
    end = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < end, f"still not so after {seconds} s: {condition}"
        tab.wait_for_timeout(100)


@pytest.mark.browser
def test_clicked_through_in_a_browser(planted_run, browser, tmp_path):
    """The page draws every figure, asks nobody for anything, and its slider moves the bars."""
    out = tmp_path / "report.html"
    thresholds = {"noise": 0.02, "tol": 0.01}
    record = planted_run(settings={"output": "log_odds", "interactions": "and-or", "thresholds": thresholds})
    assert cli.main(["report", str(record.folder), "--out", str(out)]) == 0
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    requests, complaints = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    tab.goto(out.as_uri())
    drawn = "[...document.querySelectorAll('[data-figure]')].filter(x => x.querySelector('svg')).length"
    eventually(tab, f"{drawn} === 2")  # the first screen; the others when they are unfolded
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    eventually(tab, f"{drawn} === {len(FIGURES)}")
    # The name of a level stands inside the axes, however close to it the curves are.
    room = """[...document.querySelectorAll('[data-figure=matching-error] svg, [data-figure=solver-gap] svg')]
        .flatMap(svg => [...svg.querySelectorAll('line[stroke-dasharray="6 4"]')].map(line =>
            line.getBoundingClientRect().top - svg.querySelector('path[stroke="var(--soft)"]')
                .getBoundingClientRect().top))"""
    assert min(tab.evaluate(room)) > 14
    orders = tab.locator("[data-figure=orders]")
    heights = "[...document.querySelectorAll('[data-figure=orders] .bar')].map(bar => +bar.getAttribute('height'))"
    slider = orders.locator("input[type=range]")
    for step in (5, 2):
        slider.fill(str(step))
        eventually(tab, f"document.querySelector('.frame-title').textContent.startsWith('epoch {step}')")
        seen, measured = np.array(tab.evaluate(heights)), np.array(record.history[step].distribution)
        np.testing.assert_allclose(seen / seen.sum(), measured / 5, atol=0.01)
    orders.locator("button").click()
    eventually(tab, "document.querySelector('.frame-title').textContent.startsWith('epoch 5')")
    assert tab.locator("tr.onset").is_visible()
    # The keyboard reads the values, and a zoom is every figure's.
    tab.locator("[data-figure=curves] svg[tabindex]").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("[data-figure=curves] .tip").inner_text().startswith("epoch 1")
    ticks = "document.querySelector('[data-figure=heat-map] svg[tabindex]').textContent"
    before = tab.evaluate(ticks)
    tab.evaluate("InteractionCharts.setZoom([1, 2])")
    assert tab.evaluate(ticks) != before
    tab.keyboard.press("Escape")
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": 390, "height": 844})
        eventually(tab, "document.documentElement.scrollWidth <= innerWidth")
    tab.emulate_media(media="print")
    shown = "[...document.querySelectorAll('[data-figure]')].filter(x => x.offsetParent)"
    printed = tab.evaluate(f"{shown}.map(x => x.dataset.figure)")
    assert {"moments", "curves", "heat-map"} <= set(printed)
    assert "orders" not in printed, "a slider cannot be moved on paper; the six bars are there"
    assert requests == [out.as_uri()]
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize(
    ("losses", "told"), [((70.0, 90.5), {"↑ 90.5", "↑ 20.5"}), ((70.0, 49.5), {"↑ 70", "↓ -20.5"})]
)
def test_what_is_beyond_the_end_of_its_axis_is_named_there(losses, told, planted_run, browser, tmp_path):
    record = planted_run()
    before, *after = record.history
    record.history = History([replace(before, train_loss=losses[0], test_loss=losses[1]), *after])
    out = tmp_path / "report.html"
    out.write_text(report_page(record), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(out.as_uri())
    eventually(tab, "document.querySelector('[data-figure=curves] svg') !== null")
    named = "[...document.querySelectorAll('[data-figure=curves] svg text')].map(x => x.textContent)"
    assert told <= set(tab.evaluate(named))


def test_a_long_list_among_the_settings_is_cut():
    settings = {"players": {"stop_words": [f"word{i}" for i in range(150)], "n_players": 4}}
    pairs = dict(_flat(settings))
    assert pairs["players.stop_words"].endswith("word10, word11 and 138 more")
    assert pairs["players.n_players"] == "4"


def test_verdict_of_few_measurements_tells_from_how_many_a_fall_is_known(record):
    rows = [replace(record.history[0], phase="initial", epoch=epoch) for epoch in range(5)]
    assert verdict(rows[:1]).startswith("1 measurement is too few to tell the phase")
    assert verdict(rows[:2]).startswith("2 measurements are too few")
    assert verdict(rows).startswith("5 measurements may be too few")
    assert "known from 3 at the very least, and most are from five or six" in verdict(rows[:1])
    tracker, scatter = PhaseTracker(), torch.linspace(0, 0.01, 20, dtype=torch.float64)[:, None]
    steep = [torch.tensor([[low, 0, 0, 0, high]]) + scatter for low, high in ((0.1, 0.9), (0.8, 0.2), (0.8, 0.2))]
    phases = [tracker.update(epoch=epoch, strength=strength).phase for epoch, strength in enumerate(steep)]
    assert phases == ["initial", "initial", "one"]
