"""The command line: what `theory` says and leaves behind, and what every command says to bad input."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from rows import make_row
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor import cli
from interaction_monitor.functional import order_strength
from interaction_monitor.functional.faithfulness import average_outputs, largest_drop
from interaction_monitor.functional.saliency import fit_shapes
from interaction_monitor.history import History
from interaction_monitor.measurement import interpret
from interaction_monitor.plots import theory_figures, theory_text
from interaction_monitor.record import Record
from interaction_monitor.theory import fit_record, fit_sigma2, norm_ratio

PICTURES = ("theory_bars.png", "theory_noise_level.png")


def refused(capsys, *argv):
    """Run a command that must refuse, and return its one line."""
    code = cli.main([str(argument) for argument in argv])
    printed = capsys.readouterr()
    assert code == 2
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith(f"interaction-monitor {argv[0]}: error: ")
    assert "Traceback" not in printed.out
    return lines[0]


@pytest.fixture(params=["theory", "report"])
def command(request):
    return request.param


class TestTheory:
    def test_prints_the_table_and_its_findings(self, planted_run, capsys):
        record = planted_run()
        assert cli.main(["theory", str(record.folder)]) == 0
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert [line.split()[1] for line in lines[1:7]] == ["(one)", "(one)", "two", "two", "two", "two"]
        overlay = fit_record(record)
        worst = min(float(cosine) for cosine in overlay.fit.cosine[2:])
        assert re.search(rf"cosine {worst:.4f}, at epoch \d", printed)
        assert "σ² decreases over phase two" in printed
        assert "section 3.3.3" in printed

    def test_says_so_when_the_level_does_not_decrease(self, planted_run, capsys):
        record = planted_run(levels=(1e-3, 1.0, 0.0), onset=None)
        assert cli.main(["theory", str(record.folder)]) == 0
        printed = capsys.readouterr().out
        assert "lowest mean order" in printed
        assert "over phase two" not in printed  # the run does not know of one
        assert re.search(r"^ +\d+  two\?", printed, re.MULTILINE)
        record = planted_run(record.folder.parent / "again", levels=(1e-4, 1.0, 0.0), onset=2)
        assert cli.main(["theory", str(record.folder)]) == 0
        assert "does NOT decrease" in capsys.readouterr().out

    def test_leaves_pictures_beside_the_record(self, planted_run, tmp_path):
        record = planted_run()
        assert cli.main(["theory", str(record.folder)]) == 0
        assert cli.main(["theory", str(record.folder), "--out", str(tmp_path / "new" / "place")]) == 0
        for folder in (record.folder, tmp_path / "new" / "place"):
            for name in PICTURES:
                assert imread(folder / name).std() > 0.05
        assert len(Record.open(record.folder).history) == 6

    def test_finds_the_record_below_a_log_folder(self, planted_run, tmp_path, capsys):
        planted_run()
        assert cli.main(["theory", str(tmp_path)]) == 0
        planted_run(tmp_path / "other" / "interactions")
        message = refused(capsys, "theory", tmp_path)
        assert f"{tmp_path}/run/interactions" in message
        assert f"{tmp_path}/other/interactions" in message

    def test_writes_to_tensorboard_the_same_however_often(self, planted_run, monkeypatch):
        record = planted_run()
        run = record.folder.parent
        with SummaryWriter(str(run)) as writer:
            writer.add_scalar("interactions/mean_order", 3.0, 0)
        assert cli.main(["theory", str(record.folder)]) == 0
        monkeypatch.setattr(theory_figures, "to_image", lambda figure: np.zeros((4, 4, 3), dtype=np.uint8))
        for name in ("interactions", "attention"):  # again, and that of a second monitor
            theory_figures.write_theory(fit_record(record), run, name=name)
        assert len(list(run.glob("events.out.tfevents.*"))) == 3
        board = EventAccumulator(str(run), size_guidance={"images": 0, "histograms": 0, "scalars": 0}).Reload()
        overlay = fit_record(record)
        steps = [20, 30, 40, 50]
        assert [event.step for event in board.Scalars("interactions/mean_order")] == [0]
        scalars = board.Scalars("interactions/theory/sigma2")
        assert [event.step for event in scalars] == steps
        np.testing.assert_allclose([event.value for event in scalars], overlay.fit.sigma2[2:], rtol=1e-6)
        histograms = board.Histograms("interactions/theory/orders")
        assert [event.step for event in histograms] == steps
        np.testing.assert_allclose(histograms[1].histogram_value.bucket[-5:], overlay.fit.theory[3], atol=1e-5)
        assert [event.step for event in board.Images("interactions/theory/bars")] == [0, 10, *steps]
        assert [event.step for event in board.Images("interactions/theory/overview")] == [50]
        assert "interactions/theory/how_to_read/text_summary" in board.Tags()["tensors"]
        assert "attention/theory/sigma2" in board.Tags()["scalars"]

    def test_leaves_a_folder_alone_that_is_no_tensorboard_run(self, planted_run, capsys):
        record = planted_run()
        assert cli.main(["theory", str(record.folder)]) == 0
        assert not list(record.folder.parent.glob("events*"))
        assert "no TensorBoard run" in capsys.readouterr().out


class TestBadInput:
    def test_no_such_folder(self, command, tmp_path, capsys):
        assert "no folder" in refused(capsys, command, tmp_path / "nothing")

    def test_no_record(self, command, tmp_path, capsys):
        assert "holds no record" in refused(capsys, command, tmp_path)

    def test_the_training_samples_in_a_record_are_no_second_record(self, command, planted_run, capsys):
        record = planted_run()
        shutil.copytree(record.folder, record.folder / "training")
        assert cli.main([command, str(record.folder.parent)]) == 0, capsys.readouterr().err
        capsys.readouterr()
        shutil.copytree(record.folder, record.folder.parent / "another")
        assert "holds 2 records" in refused(capsys, command, record.folder.parent)

    @pytest.mark.parametrize("found", [0, 1])
    def test_too_few_measurements(self, command, planted_run, capsys, found):
        record = planted_run()
        lines = (record.folder / "history.csv").read_text().splitlines(keepends=True)
        (record.folder / "history.csv").write_text("".join(lines[: 1 + found]))
        for path in sorted((record.folder / "measurements").iterdir())[found:]:
            path.unlink()
        assert "at least two are needed" in refused(capsys, command, record.folder)

    def test_one_player(self, command, planted_run, capsys):
        assert "n_players=1" in refused(capsys, command, planted_run(n=1).folder)

    def test_history_cut_off(self, command, planted_run, capsys):
        path = planted_run().folder / "history.csv"
        path.write_text(path.read_text()[:-40])
        assert "cut off" in refused(capsys, command, path.parent)

    def test_history_cut_off_between_two_lines(self, command, planted_run, capsys):
        path = planted_run().folder / "history.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
        assert "has no row" in refused(capsys, command, path.parent)

    @pytest.mark.parametrize("how", ["cut", "gone", "noise"])
    def test_a_measurement_is_damaged(self, command, planted_run, capsys, how):
        path = planted_run().folder / "measurements" / "epoch_00003_step_00000030.npz"
        data = path.read_bytes()
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2] if how == "cut" else os.urandom(len(data)))
        message = refused(capsys, command, path.parent.parent)
        assert "epoch 3" in message
        assert "--skip-damaged" in message

    def test_damage_can_be_skipped(self, planted_run, capsys):
        record = planted_run()
        (record.folder / "measurements" / "epoch_00003_step_00000030.npz").unlink()
        assert cli.main(["theory", str(record.folder), "--skip-damaged"]) == 0
        printed = capsys.readouterr()
        assert "note: epoch 3" in printed.err
        assert [line.split()[0] for line in printed.out.splitlines()[1:6]] == ["0", "1", "2", "4", "5"]

    def test_a_killed_run_is_not_damaged(self, planted_run, capsys):
        record = planted_run()
        last = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
        shutil.copy(last, last.with_name("epoch_00006_step_00000060.npz"))
        assert cli.main(["theory", str(record.folder)]) == 0
        assert "has no row" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["run.json", "history.csv"])
    def test_a_file_is_noise(self, command, planted_run, capsys, name):
        record = planted_run()
        (record.folder / name).write_bytes(b"\x93\x00noise\n" * 9)
        assert name in refused(capsys, command, record.folder)

    @pytest.mark.parametrize("array", ["and_", "strength", "tau"])
    def test_bytes_inside_an_array_are_damaged(self, command, planted_run, capsys, array):
        record = planted_run()
        path = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
        arrays = dict(np.load(path))
        arrays[array] = np.full_like(arrays[array], np.nan)
        np.savez(path, **arrays)
        refused(capsys, command, record.folder)

    def test_nothing_salient_at_the_end(self, command, planted_run, capsys):
        record = planted_run()
        path = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
        arrays = dict(np.load(path))
        arrays["strength"][:] = 0
        np.savez(path, **arrays)
        assert "no salient interaction" in refused(capsys, command, record.folder)

    def test_the_last_measurement_diverged(self, command, planted_run, capsys):
        record = planted_run()
        path = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
        arrays = dict(np.load(path))
        arrays["valid"][:] = False
        arrays["strength"][:] = np.nan
        np.savez(path, **arrays)
        assert "diverged" in refused(capsys, command, record.folder)

    def test_the_output_is_in_the_way(self, command, planted_run, tmp_path, capsys):
        (tmp_path / "file").write_text("here first")
        message = refused(capsys, command, planted_run().folder, "--out", tmp_path / "file" / "below")
        assert "file" in message
        assert (tmp_path / "file").read_text() == "here first"

    def test_nothing_is_left_of_what_is_refused(self, command, planted_run, tmp_path, capsys):
        out = tmp_path / "new" / "place"
        refused(capsys, command, planted_run(n=1).folder, "--out", out)
        assert not out.parent.exists()

    def test_tensorboard_needs_a_folder(self, planted_run, tmp_path, capsys):
        (tmp_path / "file").write_text("here first")
        out = tmp_path / "out"
        message = refused(capsys, "theory", planted_run().folder, "--out", out, "--tensorboard", tmp_path / "file")
        assert "file is a file" in message
        assert "choose another folder by --tensorboard" in message
        assert not out.exists()

    def test_the_output_may_not_be_written(self, command, planted_run, tmp_path, capsys):
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        if os.geteuid() == 0:  # whom no mode keeps out, but Linux's list of processes does
            locked = Path("/proc")
        assert locked.name in refused(capsys, command, planted_run().folder, "--out", locked / "x")


class TestProgram:
    def test_help_names_the_commands_and_waits_for_nothing(self):
        code = "import sys; from interaction_monitor.cli import main\n"
        code += "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        code += "assert not {'torch', 'lightning', 'matplotlib', 'jinja2'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert {"theory", "report"} <= set(done.stdout.split())

    @pytest.mark.parametrize("argv", [[], ["unheard"], ["theory"], ["theory", "a", "b"]])
    def test_arguments_that_make_no_sense(self, argv, capsys):
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 2
        assert "usage" in capsys.readouterr().err

    def test_a_terminal_without_unicode(self, planted_run):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from interaction_monitor.cli import main; main()",
                "theory",
                str(planted_run().folder),
            ],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"decreases over phase two" in done.stdout


BENCHED = """
from dataclasses import replace

import torch
from torch import nn

from interaction_monitor import Probe
from interaction_monitor.comparison import Network
from interaction_monitor.players import FeaturePatches, ImagePatches


def load(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return Network(module, Probe(torch.rand(4, 1, 8, 8), torch.arange(4) % 3), ImagePatches(grid=4, n_players=3))


def load_elsewhere(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return Network(module, Probe(torch.rand(4, 1, 8, 8), torch.arange(4) % 3), FeaturePatches(layer="nowhere"))


def load_broken(path):
    def broken(module, inputs):
        raise RuntimeError("out of order")

    return replace(load(path), forward_func=broken)
"""


def test_bench_tells_what_a_measurement_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benched.py").write_text(BENCHED)
    (tmp_path / "small.ckpt").touch()
    options = ["bench", "--factory", "benched:load", "small.ckpt", "--epoch-seconds", "0.5", "--limit", "0.000001"]
    assert cli.main([*options, "--players", "3", "5", "--samples", "10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("small: 10 samples, on cpu")
    rows = [line.split() for line in out.splitlines()[3:6]]
    assert [row[:2] for row in rows] == [["3<", "80"], ["4", "160"], ["5", "320"]]
    assert [row[3].startswith("~") or row[4].startswith("~") for row in rows] == [False, True, True]
    assert cli.main([*options, "--players", "14", "14", "--interactions", "and", "--samples", "2"]) == 0
    assert "32,768" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--players", "8", "6"], "--players takes two numbers from 1 to 24, the smaller first, but is 8 6"),
        (["--samples", "0"], "--samples must be above 0, but is 0"),
        (["--epoch-seconds", "nan"], "--epoch-seconds must be above 0, but is nan"),
        (["--factory", "benched:load_elsewhere"], "the network cannot be measured: .*nowhere"),
        (["--factory", "benched:load_broken"], "the network cannot be measured: RuntimeError: out of order"),
    ],
)
def test_bench_says_what_is_wrong(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benched.py").write_text(BENCHED)
    (tmp_path / "small.ckpt").touch()
    assert cli.main(["bench", "small.ckpt", "--factory", "benched:load", *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_and_part_is_matched_by_itself(planted_run, capsys):
    record = planted_run()
    last = record.measurements[-1]
    strength = torch.stack([order_strength(m.and_, None, m.tau) for m in record.measurements])
    expected = fit_sigma2(strength, last.and_, None, tau=last.tau)
    found = fit_record(record, and_part=True)
    assert torch.equal(found.fit.sigma2, expected.sigma2)
    assert not torch.equal(found.fit.real, fit_record(record).fit.real)
    assert cli.main(["theory", str(record.folder), "--and-part"]) == 0
    assert theory_text.table(found) in capsys.readouterr().out


def test_the_and_part_of_or_interactions_alone_predicts_nothing(planted_run, capsys):
    record = planted_run()
    path = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
    arrays = dict(np.load(path))
    arrays["and_"][:, 1:] = 0
    np.savez(path, **arrays)
    assert "of OR alone, so its AND part predicts nothing; leave out" in refused(
        capsys, "theory", record.folder, "--and-part"
    )


@pytest.mark.parametrize("buffering", [1, -1], ids=["by line", "at the end"])
def test_a_reader_that_goes_away_ends_the_command_quietly(planted_run, tmp_path, capsys, monkeypatch, buffering):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=buffering, encoding="utf-8") as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        assert cli.main(["theory", str(planted_run().folder), "--out", str(tmp_path / "out")]) == 0
        assert sys.stdout is pipe
    assert capsys.readouterr().err == ""
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(PICTURES)


def test_the_ratio_says_whether_the_proposition_holds(tmp_path, capsys):
    picture = tmp_path / "made" / "ratio.png"
    assert cli.main(["ratio", "--players", "4", "11", "12", "16", "--out", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "n = 4: every ratio falls as the noise fades; all are above 1"
    # docs/theory.md: by 4e-6 with eleven players, and by more with twelve
    one = "n = 11: as the noise fades, the ratio of order 1 rises somewhere; the least ratio is 1 - 3.9e-06 (order 1)"
    assert lines[1] == one
    assert re.match(r"n = 12: .* of orders 1, 2 rises .* the least ratio is 1 - 2\.6e-04 \(order 1\)$", lines[2])
    # that of order five at noise of 3e-12, as arithmetic of 60 digits confirms
    assert lines[3].startswith("n = 16: as the noise fades, the ratio of orders 1, 2, 3, 4, 5 rises somewhere;")
    assert imread(picture).std() > 0
    assert "ends in .png, .pdf or .svg" in refused(capsys, "ratio", "--out", tmp_path / "ratio.xyz")
    assert "--players must be at least 2" in refused(capsys, "ratio", "--players", 1, "--out", picture)


@pytest.mark.parametrize(("n", "least"), [(4, 1e-6), (12, 1e-16)])
def test_the_picture_of_the_ratio_reaches_to_where_the_proposition_fails(n, least, tmp_path, monkeypatch, capsys):
    given = {}
    drawn = Figure()
    monkeypatch.setattr(theory_figures, "norm_ratio_figure", lambda *now: given.update(now=now) or drawn)
    assert cli.main(["ratio", "--players", str(n), "--out", str(tmp_path / "ratio.png")]) == 0
    players, levels = given["now"]
    assert players == [n]
    assert min(levels) == pytest.approx(least)
    assert max(levels) == pytest.approx(1e3)
    assert bool((norm_ratio(n, torch.tensor(levels)) < 1).any()) == ("the least ratio is" in capsys.readouterr().out)


def test_analyse_tells_conditions_and_shapes(planted_run, capsys):
    record = planted_run()
    assert cli.main(["analyse", str(record.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    last = record.measurements[-1]
    average = average_outputs(last.v)
    assert f"so on {int((largest_drop(average) == 0).sum())} of {len(last.v)} samples" in lines[2]
    fit = fit_shapes(torch.tensor(record.history[0].strength))
    row = next(line for line in lines if line.split()[:2] == ["epoch", "0"])
    assert row.split()[2] == f"{float(fit.decay_share):.0%}"
    assert "rank correlation" not in lines[-1]  # the run had no references
    assert cli.main(["analyse", str(record.folder), "--same-players"]) == 0
    added = [line for line in capsys.readouterr().out.splitlines() if line not in lines]
    assert [line.split()[0] for line in added] == ["Of", "Where"]
    assert "k=20" in added[0]
    most = salient = 0
    effects = torch.cat((last.and_[:, 1:], last.or_[:, 1:]), 1)
    for label in range(3):
        for pattern in effects[record.probe_targets == label].T.tolist():
            signs = [effect > 0 for effect in pattern if abs(effect) >= last.tau]
            most, salient = most + max(sum(signs), len(signs) - sum(signs)), salient + len(signs)
    assert f" in {most / salient:.0%} of the samples of its class, of 3 classes;" in added[1]
    assert "fewer than four" in refused(capsys, "analyse", planted_run(record.folder.parent / "small", n=3).folder)


def test_analyse_tells_and_draws_what_the_salient_interactions_give_alone(planted_run, tmp_path, capsys):
    record = planted_run()
    last, picture = record.measurements[-1], tmp_path / "pictures" / "salient.png"
    assert cli.main(["analyse", str(record.folder), "--salient-matching", str(picture), "--sample", "2"]) == 0
    error, count = 0.0, 0
    for v, and_, or_ in zip(last.v.tolist(), last.and_.tolist(), last.or_.tolist(), strict=True):
        strong_and, strong_or = ([s for s in range(1, 32) if abs(kind[s]) >= last.tau] for kind in (and_, or_))
        count += len(strong_and) + len(strong_or)
        for coalition in range(32):
            given = v[0] + sum(and_[s] for s in strong_and if s & coalition == s)
            error += abs(v[coalition] - given - sum(or_[s] for s in strong_or if s & coalition))
    line = next(line for line in capsys.readouterr().out.splitlines() if "interactions alone" in line)
    samples = len(last.v)
    assert f"alone, {count / samples:.0f} of 62 in the mean" in line
    assert f"error of {error / samples / 32 / last.output_change:.1%} of" in line
    assert imread(picture).std() > 0
    for option, said in (("--sample=12", "--sample must be one of 0, 1, 2"), ("--salient-matching=x.xyz", "ends in")):
        assert said in refused(capsys, "analyse", record.folder, f"--salient-matching={picture}", option)


def test_analyse_of_and_interactions_counts_these_alone(planted_run, capsys):
    assert cli.main(["analyse", str(planted_run(kind="and").folder)]) == 0
    assert " of 31 in the mean" in capsys.readouterr().out


def test_the_decays_share_is_ranked_beside_the_measured_one_with_its_ties():
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(9, 5, generator=generator)
    strengths[1::2] = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0])  # decays wholly, as several measurements of a run do
    measured = [0.9, 0.3, 0.5, 0.3, 0.6, 0.8, 0.3, 0.1, 0.2]
    effects = torch.rand(2, 32, generator=generator, dtype=torch.float64)
    measurement = interpret(effects)

    def last_line(shares):
        rows = [make_row(i, i, n=5, strength=tuple(strengths[i].tolist()), generalizing_share=share)
                for i, share in enumerate(shares)]  # fmt: skip
        run = SimpleNamespace(history=History(rows), measurements=[measurement] * len(rows), n_players=5)
        return theory_text.shapes(run)[-1]

    decay = fit_shapes(strengths).decay_share.tolist()
    assert len(set(decay)) < 8
    expected = stats.spearmanr(decay, measured).statistic
    assert last_line(measured) == (
        "Over 9 measurements the rank correlation of the decay's share with the measured generalizing share is "
        f"{expected:.2f}."
    )
    assert last_line([0.5] * 9).endswith("share cannot be told, as one of them is the same in all.")


def test_analyse_refuses_a_network_that_does_nothing_and_draws_the_first_sample_there_is(planted_run, tmp_path, capsys):
    record = planted_run()
    path = record.folder / "measurements" / "epoch_00005_step_00000050.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"valid": np.arange(len(arrays["valid"])) > 1})
    picture = ["--salient-matching", str(tmp_path / "one.png")]
    assert cli.main(["analyse", str(record.folder), *picture]) == 0
    assert "wrote" in capsys.readouterr().out
    assert "--sample must be one of 2, 3" in refused(capsys, "analyse", record.folder, *picture, "--sample", 0)
    np.savez(path, **arrays | {"v": 0 * arrays["v"] + 1})
    assert "has no salient interaction, so there is nothing" in refused(capsys, "analyse", record.folder)


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_path_is_not_the_current_folder(capsys, command, given, planted_run, monkeypatch):
    monkeypatch.chdir(planted_run().folder)
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, given])
    assert stopped.value.code == 2
    assert "argument RUN: the path is empty; give one, or . for the current folder" in capsys.readouterr().err
