from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import gallery.__main__ as pages
from gallery import other_statistics, reference_runs, references, tables
from gallery.accuracy import SCHEDULES, kept, told
from gallery.detection import detect, flat_histories, known_with
from gallery.fewer_players import FOLDER, restrict
from gallery.gaps import READINGS, correlation, leaves_its_lowest
from gallery.ingredients import splits, with_wrong_labels
from gallery.other_curves import known_by
from gallery.reference_runs import CURVES, FAMILIES, KINDS
from gallery.reference_runs import train as train_beside
from gallery.replay import fewer_measurements, fewer_samples, replay
from gallery.runs import RUNS, select
from gallery.spindle import FILE, path_in, published
from gallery.stops import RULES, by_validation_loss, learning
from gallery.stored import UnusableError, load, load_all, path_of, save
from gallery.train import train
from interaction_monitor.functional import and_outputs, or_outputs, sparsest_and_or
from interaction_monitor.schedule import Every

PAGE = pages.PAGES[0]


@pytest.fixture(scope="module")
def stored():
    return load_all()


@pytest.fixture(scope="module")
def detected(stored):
    return [detect(run) for run in stored]


def test_what_is_stored_is_what_the_table_of_runs_says(stored):
    table = {run.name: run for run in RUNS}
    assert len({run.name for run in RUNS}) == len(RUNS)
    assert len(stored) >= 24
    for run in stored:
        assert run.run == replace(table[run.run.name], small=False)
        measured = sorted({*range(0, run.run.epochs + 1, run.run.every), run.run.epochs})
        assert run.epochs.tolist() == measured
        assert run.strength["and-or"].shape == (len(measured), run.run.n_samples, run.run.n_players)
        assert run.n_epochs == run.run.epochs
        assert run.solver_gap.max() <= 0.01 + 1e-6


def shown(name):
    match = re.search(rf"<!-- table: {name} -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match, f"the page has no table {name}"
    return match[1]


@pytest.mark.parametrize("name", ["runs", "detection", "gap readings", "stops", "stops by run"])
def test_the_page_shows_what_is_stored(detected, name):
    assert shown(name) == getattr(tables, name.replace(" ", "_"))(detected)


def test_the_page_shows_the_spindle_and_every_table_there_is():
    assert shown("spindle") == tables.spindle()
    asked = [name for page in pages.PAGES for name in re.findall(r"<!-- table: (.+?) -->", page.read_text("utf-8"))]
    assert sorted(asked) == sorted(
        [
            "runs",
            "detection",
            "detection summary",
            "gap readings",
            "stops",
            "stops by run",
            "accuracy",
            "schedules",
            "spindle",
            "pictures",
        ]
    )


def test_every_stored_run_has_its_picture(detected):
    page = pages.PAGES[1].read_text(encoding="utf-8")
    assert tables.pictures(detected) in page
    for picture in re.findall(r"\((images/.+?)\)", page):
        assert (pages.DOCS / picture).exists()


def test_negatives_raise_no_alarm_and_most_onsets_are_found(detected):
    true = [run for run in detected if run.onset is not None]
    assert not any(run.known is not None for run in detected if run.onset is None)
    assert sum(run.known is not None for run in true) >= 0.7 * len(true)
    assert all(run.delay >= 1 for run in true if run.delay is not None)


def test_real_runs_made_to_stay_flat_rarely_raise_an_alarm(stored):
    some = [run for run in stored if run.run.name in ("lenet-clean", "lenet-wrong-10", "vgg6-decay", "mlp-clean")]
    false, total = flat_histories(some, replicates=5)
    assert total == 20
    assert false <= 2


def test_the_default_rule_loses_little_beside_the_best_epoch(detected):
    rule = RULES["HighOrdersAndGap(0.1, 0.05)"]
    stops = [rule(run) for run in learning(detected)]
    assert np.median([stop.regret for stop in stops]) <= 2.5
    assert all(0 <= stop.used <= 1 and stop.regret >= 0 for stop in stops)


def test_early_stopping_waits_for_its_patience(detected):
    run = detected[0]
    loss = np.array([3.0, 2.0, 1.0, 1.5, 1.2, 1.1, 0.5])
    accuracy = np.array([0.1, 0.5, 0.9, 0.7, 0.6, 0.5, 1.0])
    curves = {"val_loss": loss, "test_accuracy": accuracy}
    run = replace(run, stored=replace(run.stored, curves=curves))
    assert (by_validation_loss(2)(run).epoch, by_validation_loss(2)(run).regret) == (4, pytest.approx(40))
    assert by_validation_loss(2, restore=True)(run).regret == pytest.approx(10)
    assert by_validation_loss(9)(run).epoch == 6


def test_a_stored_run_comes_back_nearly_as_it_was(stored, tmp_path):
    run = stored[0]
    again = load(save(run, tmp_path))
    assert again.run == run.run
    for kind, values in run.strength.items():
        np.testing.assert_allclose(again.strength[kind], values, rtol=1e-3)
    np.testing.assert_array_equal(again.curves["val_loss"], run.curves["val_loss"])


def test_a_run_is_trained_measured_and_stored(tmp_path):
    (run,) = select(["vgg6-wrong-10"])
    short = replace(run, epochs=3, every=2, n_samples=4, n_players=4, n_train_samples=4)
    result = train(short, outputs=tmp_path / "outputs")
    again = load(save(result, tmp_path))
    assert again.epochs.tolist() == [0, 2, 3]
    assert again.curves["train_loss"][-1] < again.curves["train_loss"][0]
    assert again.effect["train"].shape == again.effect["test"].shape == (3, 4)
    assert np.load(tmp_path / "outputs" / "vgg6-wrong-10.npz")["v"].shape == (3, 4, 16)
    # the same again is the same
    np.testing.assert_array_equal(train(short).strength["and-or"], result.strength["and-or"])


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    (run,) = select(["vgg6-wrong-10"])
    short = replace(run, epochs=5, every=2, n_samples=4, n_players=4, n_train_samples=4)
    whole = train(short)
    left, module = tmp_path / "run.unfinished", sys.modules["gallery.train"]
    evaluated, evaluate = [], module.evaluate

    def interrupted(*arguments, **settings):
        evaluated.append(0)
        if len(evaluated) == 11:  # three of each epoch, so this is after the fourth, which no measurement has seen
            raise KeyboardInterrupt
        return evaluate(*arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(module, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(short, unfinished=left)
    torch.rand(3)  # whatever is drawn in between
    assert left.exists()
    again = train(short, unfinished=left)
    assert not left.exists()
    assert again.epochs.tolist() == [0, 2, 4, 5]
    assert again.curves.keys() == whole.curves.keys()
    for name, curve in whole.curves.items():
        np.testing.assert_array_equal(again.curves[name], curve)
    np.testing.assert_array_equal(again.strength["and-or"], whole.strength["and-or"])
    left.write_bytes(b"cut off")
    np.testing.assert_array_equal(train(short, unfinished=left).tau, whole.tau)


def test_training_labels_alone_are_wrong():
    (run,) = select(["vgg6-wrong-20"])
    parts, right = splits(run, None), splits(replace(run, wrong_labels=0.0), None)
    changed = (parts.train[1] != right.train[1]).double().mean()
    assert 0.12 < changed < 0.2
    assert torch.equal(parts.validation[1], right.validation[1])
    assert torch.equal(parts.test[1], right.test[1])
    labels = torch.zeros(1000, dtype=torch.long)
    assert 0.85 < (with_wrong_labels(labels, 1.0, n_classes=10, seed=0) != 0).double().mean() < 0.95


def test_runs_are_chosen_by_name_and_preset():
    assert [run.name for run in select(["lenet-wrong-1*"])] == ["lenet-wrong-10", "lenet-wrong-1"]
    assert 3 <= len(select([], small=True)) < len(select([]))
    with pytest.raises(ValueError, match="no run is called 'nothing'"):
        select(["nothing"])
    parts = [run.part for run in RUNS if run.part != "fresh"]
    assert 0.3 < np.mean([part == "held out" for part in parts]) < 0.7


def test_three_readings_of_the_gap_are_laid_beside_the_onset(detected):
    found = {name: correlation(detected, reading) for name, reading in READINGS.items()}
    lowest, leaves, change = (result.value for result in found.values())
    # a gap that is flat at first has its lowest point anywhere, and so says nothing of the onset
    assert lowest < 0.2 < min(leaves, change)
    for result in found.values():
        assert all(0 <= onset <= 1 and 0 <= opening <= 1 for onset, opening in result.places)
    opened = [run for run in detected if run.gap is not None]
    assert all(run.gap.low <= run.gap.epoch <= run.gap.high <= run.stored.n_epochs for run in opened)
    assert leaves_its_lowest(replace(opened[0], gap=None)) is None


def test_denser_measuring_around_a_turn_costs_less_than_measuring_each_epoch(detected):
    run = next(run for run in detected if run.stored.run.name == "lenet-fine-clean")
    delay, taken = known_with(run, 1, denser=False)
    assert (delay, taken) == (run.delay, run.known + 1)
    assert known_with(run, 4, denser=False)[0] is None
    denser, fewer = known_with(run, 4, denser=True)
    assert denser <= delay + 1
    assert fewer < 0.7 * taken


def test_other_curves_are_put_to_the_trackers_tests(detected):
    some = [run for run in detected if run.stored.run.network in ("LeNet", "VGG-6")]
    known = [known_by(torch.tensor(run.stored.strength["and-or"]))["mean order, high orders"] for run in some]
    assert known == [run.known for run in some]


def test_the_sum_of_curves_that_tell_the_same_tells_it_too():
    generator = torch.Generator().manual_seed(0)
    high = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.05, 0.04, 0.04, 0.05, *torch.linspace(0.07, 0.3, 12).tolist()])
    mixed = high[:, None] * torch.empty(len(high), 30).uniform_(0.8, 1.2, generator=generator)
    strength = torch.zeros(len(high), 30, 6)  # orders one and six alone, so both curves are the part of order six
    strength[..., 0], strength[..., 5] = 1 - mixed, mixed
    alone = {name: {name: 1} for name in ("mean order", "high orders", "above one", "sum")}
    known = known_by(strength, alone)
    assert 8 <= known["sum"] <= 12
    assert set(known.values()) == {known["sum"]}
    assert set(known_by(strength[:8], alone).values()) == {None}


def test_less_measuring_is_part_of_the_same(stored):
    run = next(run for run in stored if run.run.name == "vgg6-wrong-10")
    whole = replay(run).column("mean_order")
    thinned = fewer_measurements(run, 3)
    np.testing.assert_array_equal(replay(thinned).column("mean_order")[:5], whole[[0, 3, 6, 9, 12]])
    assert thinned.epochs[-1] == run.epochs[-1]
    assert fewer_samples(run, [1, 2, 3]).strength["and"].shape[1] == 3


def test_a_budget_spares_the_first_measurements_and_spaces_the_others():
    assert kept(9, Every(1), most=None, spared=0, cost=5.0) == list(range(10))
    # The start costs 2 of 9 epochs; at epoch 2 another 2 would make 4 of 2 trained, at epoch 4 they make 4 of 4.
    assert kept(9, Every(1), most=1.0, spared=0, cost=2.0) == [0, 4, 6, 8, 9]
    assert kept(9, Every(1), most=1.0, spared=4, cost=2.0) == [0, 1, 2, 3, 9]
    assert kept(9, Every(4), most=None, spared=0, cost=1.0) == [0, 4, 8, 9]


def test_the_default_schedule_finds_the_onset_that_each_epoch_finds(detected):
    run = [run for run in detected if run.stored.run.name == "lenet-fine-wrong-10"]
    schedule, most, spared = SCHEDULES["the default: LogSpaced(4), budget 1, 20 spared"]
    seen = told(run, schedule, most=most, spared=spared, cost=10.0)
    assert (seen.found, seen.runs) == (1, 1)
    assert seen.moved <= 2 / 60
    assert seen.measurements == 21


def test_restricted_players_are_always_present():
    generator = torch.Generator().manual_seed(0)
    interactions = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    v = and_outputs(interactions)
    small = restrict(v, 2)
    # players 2 and 3 present: coalition {0} of the small game is {0, 2, 3} of the large one
    assert torch.equal(small[:, 1], v[:, 0b1101])
    assert load_all(FOLDER)[0].strength["and"].shape[2] < 10


def test_the_published_procedure_explains_the_outputs_and_ends_above_the_optimum():
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(2, 16, generator=generator, dtype=torch.float64).cumsum(1)
    and_, or_ = published(v, steps=3000)
    and_[:, 0] = 0  # what is left of v(∅), which the procedure splits too
    error = (v - v[:, :1] - and_outputs(and_) - or_outputs(or_)).abs().max(-1).values
    assert (error <= 0.021 * (v[:, -1] - v[:, 0]).abs() + 1e-9).all()
    cost = and_[:, 1:].abs().sum(-1) + or_[:, 1:].abs().sum(-1)
    assert (cost >= 0.99 * sparsest_and_or(v, tie_break=0.0).objective).all()


def test_a_finished_run_is_skipped_and_missing_data_is_named(tmp_path, capsys):
    from gallery.__main__ import main

    assert main(["train", "lenet-wrong-10"]) == 0
    assert "lenet-wrong-10: there already" in capsys.readouterr().out
    assert main(["train", "bert-*", "--results", str(tmp_path)]) == 0
    assert "bert-sst2-clean: skipped, this needs --data FOLDER" in capsys.readouterr().out
    assert main(["train", "nothing"]) == 2
    capsys.readouterr()
    assert main(["train", "vgg6-*", "--data", str(tmp_path / "nowhere"), "--results", str(tmp_path)]) == 2
    assert "nowhere is no folder; docs/examples.md" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    assert not path_of("bert-sst2-clean", tmp_path).exists()


def test_the_list_marks_what_is_stored(tmp_path, capsys):
    from gallery.__main__ import main

    assert main(["list"]) == 0
    marks = {line.split()[1]: line.split()[0] for line in capsys.readouterr().out.splitlines()[: len(RUNS)]}
    assert marks == {run.name: "stored" if path_of(run.name).exists() else "-" for run in RUNS}
    assert main(["list", "--results", str(tmp_path)]) == 0
    assert f"0 of {len(RUNS)} are stored in {tmp_path}" in capsys.readouterr().out


def test_analysing_says_what_it_read_and_wrote(tmp_path, capsys, monkeypatch):
    from gallery.__main__ import main

    for folder in (tmp_path, tmp_path / "missing"):
        for command in (["analyse", "--print"], ["analyse"]):
            assert main([*command, "--results", str(folder)]) == 2
            printed = capsys.readouterr()
            assert f"no results in {folder}" in printed.err
            assert printed.out == ""
    page = tmp_path / "page.md"
    page.write_text("<!-- table: runs -->\n<!-- end -->\n")
    monkeypatch.setattr(pages, "PAGES", (page,))
    monkeypatch.setattr(tables, "all_tables", lambda folder: {"runs": "the table", "stops": "another"})
    assert main(["analyse"]) == 0
    assert capsys.readouterr().out == f"wrote the tables of {page}\n"
    assert "the table" in page.read_text()


def keep_outputs(folder, name, *, n_looks=2, n_samples=9, n_players=6):
    folder.mkdir()
    v = np.random.default_rng(0).normal(size=(n_looks, n_samples, 1 << n_players)).astype(np.float32)
    np.savez(folder / f"{name}.npz", v=v)


def test_the_spindle_is_written_when_it_is_computed_and_where_it_belongs(tmp_path, capsys, monkeypatch):
    from gallery import spindle
    from gallery.__main__ import main

    before = FILE.read_bytes()
    keep_outputs(tmp_path / "outputs", "vgg6-clean")
    command = ["spindle", "vgg6-clean", "--outputs", str(tmp_path / "outputs")]
    assert main(command) == 2
    assert "is of lenet-wrong-10, not of vgg6-clean; choose another folder" in capsys.readouterr().err
    assert main(["spindle", "lenet-wrong-10", "--outputs", str(tmp_path / "outputs")]) == 2
    assert "outputs are only kept while training" in capsys.readouterr().err
    assert FILE.read_bytes() == before
    monkeypatch.setattr(spindle, "published", lambda v: published(v, steps=10))
    assert main([*command, "--results", str(tmp_path / "results")]) == 0
    assert [file.name for file in (tmp_path / "results" / "spindle").iterdir()] == ["spindle.npz"]
    assert "| sparsest |" in tables.spindle(tmp_path / "results")
    whole = path_in(tmp_path / "results").read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    assert main([*command, "--results", str(tmp_path / "results")]) == 130
    assert [file.read_bytes() for file in (tmp_path / "results" / "spindle").iterdir()] == [whole]
    path_in(tmp_path / "results").write_bytes(whole[:200])
    with pytest.raises(UnusableError, match=r"spindle.npz is broken .* make it again with python -m gallery spindle"):
        tables.spindle(tmp_path / "results")


@pytest.mark.parametrize("name", ["vgg6-clean", "vgg6-no-learning"])
def test_a_single_run_is_analysed_without_the_others(name, tmp_path, capsys):
    from gallery.__main__ import main

    shutil.copy(path_of(name), tmp_path)
    assert main(["analyse", "--print", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"## {name}" in printed
    assert "players |" not in printed
    assert "None is stored." in printed


def test_fewer_players_are_those_of_the_chosen_results(tmp_path, capsys):
    from gallery.__main__ import main

    shutil.copy(path_of("vgg6-wrong-10"), tmp_path)
    run = load(path_of("vgg6-wrong-10"))
    outputs = tmp_path / "outputs"
    sizes = {"n_looks": len(run.epochs), "n_samples": run.run.n_samples}
    keep_outputs(outputs, "vgg6-wrong-10", n_players=run.run.n_players, **sizes)
    command = ["players", "vgg6-wrong-10", "--outputs", str(outputs), "--results"]
    assert main([*command, str(tmp_path)]) == 0
    fewer = tmp_path / "fewer_players"
    assert [file.name for file in fewer.iterdir()] == ["vgg6-wrong-10-6.npz"]
    shutil.copy(path_of("lenet-clean-6", FOLDER), fewer)  # a run that is not here
    capsys.readouterr()
    assert main(["analyse", "--print", "--results", str(tmp_path)]) == 0
    assert re.findall(r"\| (\d+ of \d+) players", capsys.readouterr().out) == ["6 of 8"]
    shutil.rmtree(outputs)
    keep_outputs(outputs, "vgg6-wrong-10")
    assert main([*command, str(tmp_path)]) == 2
    assert "keep run and outputs of one training" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "elsewhere")]) == 2
    assert "python -m gallery train vgg6-wrong-10 --results" in capsys.readouterr().err


def lacking(path, name):
    with np.load(path) as file:
        np.savez(path, **{key: file[key] for key in file.files if key != name})


BREAKING = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
    "no losses": lambda path: lacking(path, "curve val_loss"),
    "no strength": lambda path: lacking(path, "strength and"),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:4000] + b"\0" * 500 + path.read_bytes()[4500:]),
}


@pytest.mark.parametrize("way", BREAKING)
def test_a_broken_file_is_named_and_trained_again(way, tmp_path, capsys, monkeypatch):
    import gallery.figures
    import gallery.train
    from gallery.__main__ import main

    whole = load(path_of("vgg6-clean"))
    path = path_of("vgg6-clean", tmp_path)
    shutil.copy(path_of("vgg6-clean"), path)
    BREAKING[way](path)
    with pytest.raises(UnusableError, match=r"vgg6-clean.npz is broken .*; delete it and train it again"):
        load(path)
    results = ["--results", str(tmp_path)]
    monkeypatch.setattr(gallery.figures, "load_all", lambda: load_all(tmp_path))
    for command in (["analyse", *results], ["figures"]):
        assert main(command) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"python -m gallery: error: {path} is broken")
        assert printed.err.count("\n") == 1
    assert main(["list", *results]) == 0
    printed = capsys.readouterr().out
    assert "broken  vgg6-clean " in printed
    assert f"0 of {len(RUNS)} are stored" in printed
    monkeypatch.setattr(gallery.train, "train", lambda run, **_: whole)
    assert main(["train", "vgg6-clean", *results]) == 0
    assert "vgg6-clean: the file is broken, so it is trained again" in capsys.readouterr().out
    assert load(path).run == whole.run


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["players", "nosuch", "--outputs", "nowhere"], "no run is called 'nosuch'; python -m gallery list names them"),
        (["spindle", "nosuch", "--outputs", "nowhere"], "no run is called 'nosuch'; python -m gallery list names them"),
        (["players", "vgg6-clean", "--outputs", "nowhere"], "no nowhere/vgg6-clean.npz; outputs are only kept while"),
        (["train", "lenet-clean", "--threads", "0"], "--threads 0 is less than one; give 1 or more"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(command, message, capsys):
    from gallery.__main__ import main

    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"python -m gallery: error: {message}")
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_training_says_why_outputs_are_missing_and_can_be_interrupted(tmp_path, capsys, monkeypatch):
    import gallery.train
    from gallery.__main__ import main

    command = ["train", "vgg6-clean", "--outputs", str(tmp_path / "outputs")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "vgg6-clean: there already; outputs are only kept while training: python -m gallery train" in printed
    keep_outputs(tmp_path / "outputs", "vgg6-clean")
    assert main(command) == 0
    assert capsys.readouterr().out == "vgg6-clean: there already\n"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gallery.train, "train", interrupted)
    assert main([*command, "--results", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "python -m gallery: interrupted; what was finished is kept\n"


def test_the_page_on_references_shows_what_is_stored():
    page = (references.RESULTS.parents[1] / "docs" / "generalizing.md").read_text()
    runs = references.load()
    rows = [
        line.partition("): ")[2] for line in references.mean_shares(references.with_seeds(runs, references.CHOOSING))
    ]
    assert len(rows) == 13
    fresh = references.with_seeds(runs, references.FRESH)
    words = " ".join(page.split())
    assert f"of {len(fresh)} more runs" in words
    for table in (references.onsets, references.regrets):
        rows += [line.partition(": ")[2] for line in table(fresh)]
    assert [row for row in rows if f"| {row} |" not in page] == []
    wrong = [run for name, run in fresh.items() if "wrong" in name]
    known = [references.onset(run, "twins_both", with_loss=True)[1] for run in wrong]
    assert f"All {len(wrong)} runs with wrong labels are found" in words
    assert None not in known


def test_the_page_on_references_says_what_else_was_tried():
    page = (references.RESULTS.parents[1] / "docs" / "generalizing.md").read_text()
    rows = list(other_statistics.rows(other_statistics.groups()))
    assert len(rows) == 5
    assert [row for row in rows if f"| {row} |" not in page] == []


def test_the_twins_loss_is_discounted_by_what_they_share():
    losses = np.array([1.0, 0.8, 0.6, 0.5, 0.45, 0.42, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    epochs = np.arange(len(losses))
    run = {"epochs": epochs, "cross_loss": losses, "strength": np.ones((16, 5)), "twins_one": np.ones((16, 5))}
    level, sinking = np.full(16, 0.8), np.where(epochs > 8, 0.8 - 0.1 * (epochs - 8), 0.8)
    shares = [run | {"twins_both": np.tile(share[:, None], 5)} for share in (level, sinking)]
    assert other_statistics.discounted_onset(shares[0]) is None
    assert other_statistics.discounted_onset(shares[1]) in (11, 12, 13)
    assert other_statistics.discounted_onset(shares[1], least=2.0) is None
    mean = other_statistics.with_mean(shares[0])["twins_mean"]
    np.testing.assert_allclose(mean, 0.9)


def test_the_page_on_references_says_what_cannot_be_known():
    page = (references.RESULTS.parents[1] / "docs" / "generalizing.md").read_text()
    runs = references.with_seeds(references.load(), (*references.CHOOSING, *references.FRESH))
    lines = [*references.told_by_test(references.with_seeds(runs, references.FRESH)), *references.left_out(runs)]
    rows = [line.partition(": ")[2] for line in lines if "0 of 0 | 0 of 0" not in line and ": " in line]
    assert len(rows) == 12
    assert [row for row in rows if f"| {row} |" not in page] == []
    later = references.with_seeds(references.load(), references.LATER)
    assert f"So {len(later)} more were planned" in page
    rows = [line.partition(": ")[2] for line in references.onsets(later)]
    rows += [line.partition(": ")[2] for line in references.mean_shares(later) if line.startswith("dgcnn")]
    told = [list(references.told_by_test(group))[-1] for group in (later, {**runs, **later})]
    assert [row for row in rows if f"| {row} |" not in page] == []
    assert told == ["all: 5 of 13 | 23 of 25", "all: 6 of 17 | 54 of 60"]
    chosen = dict(line.split(", without it ") for line in lines if ", without" in line)
    labels = {"lenet": "LeNet", "vgg6": "VGG-6", "mlp": "MLP", "resnet20": "ResNet-20", "bert": "BERT-Tiny"}
    assert [f for f, label in labels.items() if f"| {label} | {chosen[f]} |" not in page] == []

    def other(group):
        ends = [[references.overfits({"val_loss": v[: len(v) - back]}) for back in range(len(v) // 5)] for v in group]
        return round(100 * float(np.mean([np.mean([end != answers[0] for end in answers]) for answers in ends])))

    decay, lenets, clean = (
        other([run["val_loss"] for name, run in runs.items() if kind in name])
        for kind in ("-decay-", "lenet-decay-", "-clean-")
    )
    said = f"{decay}% of these ends would have the other answer, and {lenets}% in LeNets; of the clean runs {clean}%"
    assert said in " ".join(page.split())


def test_over_fitting_is_read_from_curves():
    flat, late = np.full(40, 0.5), np.r_[np.full(35, 0.5), np.full(5, 0.6)]
    spike = np.r_[np.full(39, 0.5), 0.6]
    accuracy = np.full(40, 0.9)

    def run(loss, accuracy=accuracy):
        return {"val_loss": loss, "test_accuracy": accuracy}

    assert [references.overfits(run(loss)) for loss in (flat, spike, late)] == [False, True, True]
    assert [references.overfits_for_good(run(loss)) for loss in (flat, spike, late)] == [False, False, True]
    assert references.overfits_for_good(run(flat, accuracy - 0.04 * (late > 0.55)))


def test_rules_stop_where_their_curves_turn():
    loss = np.r_[np.linspace(2, 1, 11), np.linspace(1, 1.4, 20)]
    strength = np.ones((16, 3))
    share = np.repeat(np.r_[np.linspace(0.2, 0.8, 8), np.linspace(0.8, 0.4, 8)][:, None], 3, 1)
    run = {"val_loss": loss, "epochs": np.arange(0, 31, 2), "strength": strength, "twins_both": share}
    assert references.patient(loss, 5) == (15, 10)
    curve = references.discounted(run, "twins_both")
    assert curve[11] == pytest.approx(loss[11] / (1 + share[5, 0]))  # the share that was measured last
    assert references.patient(curve, 5)[1] >= 10
    assert references.measured(run, loss, 2) == (14, 10)
    changed = np.r_[0.9, np.linspace(0.5, 0.1, 10), np.linspace(0.1, 0.3, 20)]
    stop, best = references.label_wave({"changed": changed}, width=1, patience=3)
    assert (stop, best) in ((13, 10), (14, 11))
    cross = np.arange(31.0)
    assert references.unseen(run | {"cross_loss": cross})[:3] == [None, 1.5, 3.5]


def test_a_run_beside_references_is_trained(monkeypatch):
    small = replace(FAMILIES["mlp"], epochs=2, every=1)
    monkeypatch.setitem(FAMILIES, "mlp", small)
    found = train_beside("mlp-wrong20-0", None)
    assert found["epochs"].tolist() == [0, 1, 2]
    assert {len(found[name]) for name in CURVES} == {3}
    assert found["changed"][0] == 1
    assert np.isfinite(found["cross_loss"][1:]).all()
    for kind in KINDS:
        assert (found[kind] <= found["strength"] * (1 + 1e-6)).all()
        assert found[kind].sum() > 0
    assert (found["twins_both"] <= found["twins_one"] * (1 + 1e-6)).all()


def test_an_annealed_run_ends_with_a_rate_near_zero():
    task = reference_runs._task(FAMILIES["mlp"], "mlp", "annealed", None, 0)
    optimizer = task.optimizer(torch.nn.Linear(1, 1))
    rates = []
    for done in (0.0, 0.5, 0.99):
        task.set_rate(optimizer, done)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.005, 0.0], abs=1e-5)
    # and a run with decay alone keeps its own
    constant = reference_runs._task(FAMILIES["mlp"], "mlp", "decay", None, 0)
    constant.set_rate(optimizer, 0.0)
    assert optimizer.param_groups[0]["lr"] == rates[-1]


def test_every_stored_run_beside_references_has_a_name():
    assert set(references.load()) == {*references.names(), *references.later()}
