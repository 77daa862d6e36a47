"""Records: what was written is read back, whatever happens to the process or to the files in between."""

import json
import os
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from rows import make_row

from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Progress, Record, RecordError, encoding, files

S, N = 3, 4


def make_measurement(seed=0, s=S, n=N, **changes):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    values = {
        "v": draw(s, 2**n),
        "and_": draw(s, 2**n),
        "or_": draw(s, 2**n),
        "gap": draw(s),
        "valid": torch.ones(s, dtype=torch.bool),
        "tau": 0.1 + seed,
        "strength": draw(s, n),
        "distribution": draw(n),
        "mean_order": 1.7,
        "forward_seconds": 0.25,
        "extraction_seconds": 0.5,
    }
    return Measurement(**values | changes)


def row_of(epoch, n=N):
    return make_row(epoch, 10 * epoch, n, n_valid=S, test_loss=0.5)


def make_players(**changes):
    labels = torch.tensor([[[0, 1], [2, 3]]] * S)
    return PlayerMap(**{"labels": labels, "n_players": N, "axes": (2, 3), "baseline": 0.0} | changes)


def make_record(folder, n_measurements=3, **changes):
    probe = Probe(torch.rand(S, 1, 2, 2), torch.arange(S))
    given = {"settings": {"output": "log-odds"}, "players": make_players(), "probe": probe} | changes
    record = Record.create(folder, **given)
    for epoch in range(n_measurements):
        record.write(make_measurement(epoch), row_of(epoch))
    return record


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "master"
    make_record(folder)
    return folder


@pytest.fixture
def copy(master, tmp_path):
    return Path(shutil.copytree(master, tmp_path / "copy"))


def assert_same(a, b):
    for name in ("v", "and_", "or_", "gap", "valid", "strength", "distribution"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert (a.tau, a.mean_order, a.forward_seconds, a.seconds) == (b.tau, b.mean_order, b.forward_seconds, b.seconds)


def quiet_open(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Record.open(folder)


# Writing and reading


def test_everything_comes_back(tmp_path):
    baseline = torch.rand(1, 3, 2, 2).to(torch.bfloat16)
    names = tuple(tuple(f"wörd {s}{i}" for i in range(N)) for s in range(S))
    players = make_players(baseline=baseline, layer="features.1", names=names)
    inputs = {"input_ids": torch.arange(6).reshape(S, 2), "../mask": torch.rand(S, 5) > 0.5}
    written = make_record(tmp_path / "deep" / "run", players=players, probe=Probe(inputs, torch.arange(S)))
    record = Record.open(tmp_path / "deep" / "run")
    assert record.settings == {"output": "log-odds"}
    assert record.history == written.history
    assert (record.n_samples, record.n_players, record.problems) == (S, N, ())
    assert record.packages["torch"] == metadata.version("torch")
    for i in range(3):
        assert_same(record.measurements[i], make_measurement(i))
    assert_same(record.measurements[-1], make_measurement(2))
    assert [m.tau for m in record.measurements[1:]] == [1.1, 2.1]
    with pytest.raises(IndexError):
        record.measurements[3]
    back = record.players
    assert torch.equal(back.labels, players.labels)
    assert back.baseline.dtype == torch.bfloat16
    assert torch.equal(back.baseline, baseline)
    assert (back.axes, back.layer, back.input_key, back.names, back.n_players) == (
        (2, 3), "features.1", None, names, N,
    )  # fmt: skip
    assert list(record.probe_inputs) == list(inputs)
    for key, value in inputs.items():
        assert torch.equal(record.probe_inputs[key], value)
    assert torch.equal(record.probe_targets, torch.arange(S))
    files = {path.name for path in (tmp_path / "deep" / "run").iterdir()}
    assert files == {"run.json", "players.npz", "probe.npz", "history.csv", "measurements"}


def test_a_record_says_what_it_holds(master):
    assert repr(Record.open(master)) == f"Record({master}, 3 measurements of {S} samples, {N} players)"


def test_plain_probe_without_targets_and_integer_baseline(tmp_path):
    inputs = torch.rand(S, 1, 2, 2)
    make_record(tmp_path / "run", 0, players=make_players(baseline=103), probe=Probe(inputs))
    record = Record.open(tmp_path / "run")
    assert torch.equal(record.probe_inputs, inputs)
    assert record.probe_targets is None
    assert record.players.baseline == 103
    assert len(record.measurements) == len(record.history) == 0


def test_or_interactions_that_were_not_measured_take_no_room(tmp_path):
    invalid = torch.tensor([True, False, True])
    and_ = torch.rand(S, 2**N, dtype=torch.float64)
    and_[1] = torch.nan
    or_ = torch.zeros_like(and_)
    or_[1] = torch.nan
    measurement = make_measurement(and_=and_, or_=or_, valid=invalid)
    record = make_record(tmp_path / "run", 0)
    record.write(measurement, row_of(0))
    path = next((tmp_path / "run" / "measurements").iterdir())
    assert "or_.npy" not in zipfile.ZipFile(path).namelist()
    assert_same(Record.open(tmp_path / "run").measurements[0], measurement)


def test_numpy_reads_a_measurement_without_the_package(master):
    with np.load(master / "measurements" / "epoch_00001_step_00000010.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["v"], make_measurement(1).v.numpy())
        assert arrays["tau"] == 1.1


def test_create_refuses_a_folder_with_a_record(copy):
    with pytest.raises(RecordError, match=r"already holds a record.*Record\.resume"):
        make_record(copy)
    (copy / "run.json").unlink()
    with pytest.raises(RecordError, match="already holds a record"):
        make_record(copy)


def test_create_checks_settings_before_it_makes_a_folder(tmp_path):
    for settings in ({"output": len}, {"fraction": float("nan")}):
        with pytest.raises((TypeError, ValueError), match="JSON"):
            make_record(tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("measurement", "row", "message"),
    [
        (make_measurement(n=3), row_of(9), r"measurement\.v must be .* \(3, 16\), got float64 of \(3, 8\)"),
        (make_measurement(v=torch.rand(S, 2**N)), row_of(9), "measurement.v must be float64"),
        (make_measurement(), row_of(9, n=3), "4 players, the row 3"),
        (make_measurement(), row_of(2), "must increase"),
    ],
)  # fmt: skip
def test_write_refuses_what_does_not_fit(copy, measurement, row, message):
    record = Record.resume(copy)
    before = sorted(path.name for path in copy.rglob("*"))
    with pytest.raises(ValueError, match=message):
        record.write(measurement, row)
    assert sorted(path.name for path in copy.rglob("*")) == before
    assert len(record.history) == len(Record.open(copy).history) == 3


@pytest.mark.parametrize("failing", [1, 2])  # the arrays, then the history
def test_a_full_disk_leaves_the_record_as_it_was(copy, monkeypatch, failing):
    record = Record.resume(copy)
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == (1 if failing == 1 else 3):  # each file is synced, then its folder
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        record.write(make_measurement(3), row_of(3))
    monkeypatch.undo()
    assert not list(copy.rglob("*.tmp"))
    assert len(record.history) == len(Record.open(copy).history) == 3
    record.write(make_measurement(4), row_of(4))
    assert_same(Record.open(copy).measurements[3], make_measurement(4))


# Resuming


def test_resume_goes_back_to_the_checkpoint(copy):
    (copy / ".run.json.99.tmp").write_text("left over")
    (copy / "measurements" / ".x.npz.99.tmp").write_text("left over")
    shutil.copy(
        copy / "measurements" / "epoch_00002_step_00000020.npz", copy / "measurements" / "epoch_00009_step_00000090.npz"
    )
    said = ("measurements/epoch_00009_step_00000090.npz has no row in history.csv and is ignored",)
    assert (Record.open(copy).left_out, Record.open(copy).ignored) == ((), said)
    assert Record.open(copy).problems == said
    record = Record.resume(copy, up_to=(1, 10))
    assert len(record.history) == 2
    assert sorted(path.name for path in (copy / "measurements").iterdir()) == [
        "epoch_00000_step_00000000.npz", "epoch_00001_step_00000010.npz",
    ]  # fmt: skip
    assert not list(copy.rglob(".*"))
    record.write(make_measurement(7), row_of(2))
    again = Record.open(copy)
    assert [row.epoch for row in again.history] == [0, 1, 2]
    assert again.problems == ()
    assert_same(again.measurements[2], make_measurement(7))


def test_what_was_measured_after_the_checkpoint_waits_until_it_is_measured_again(copy):
    late = {row.position for row in Record.open(copy).history.until(2, 20)[1:]}
    record = Record.resume(copy, up_to=(0, 0))
    assert {row.position for row in record.waiting} == late == {(1, 10), (2, 20)}
    assert_same(
        encoding.read_measurement(copy / "set_aside" / "epoch_00002_step_00000020.npz", S, N), make_measurement(2)
    )
    record.write(make_measurement(7), row_of(1))
    assert [row.position for row in record.waiting] == [(2, 20)]
    assert [path.name for path in (copy / "set_aside").glob("*.npz")] == ["epoch_00002_step_00000020.npz"]
    # Killed again, behind a checkpoint at the very start: what waits is the newest there is.
    again = Record.resume(copy, up_to=(0, 0))
    assert [row.position for row in again.waiting] == [(1, 10), (2, 20)]
    assert_same(
        encoding.read_measurement(copy / "set_aside" / "epoch_00001_step_00000010.npz", S, N), make_measurement(7)
    )
    again.write(make_measurement(8), row_of(2))
    assert not (copy / "set_aside").exists()
    assert_same(Record.open(copy).measurements[1], make_measurement(8))
    assert Record.open(copy).problems == ()


@pytest.mark.parametrize("links", [True, False])
def test_a_branch_leaves_the_first_record_whole(copy, tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "no links")))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    branch = Record.branch(copy, tmp_path / "branch", up_to=(1, 10))
    branch.write(make_measurement(7), row_of(2))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    opened = Record.open(tmp_path / "branch")
    assert opened.problems == ()
    assert [row.epoch for row in opened.history] == [0, 1, 2]
    assert torch.equal(opened.players.labels, make_players().labels)
    assert len(opened.probe_inputs) == S
    for measurement, seed in zip(opened.measurements, (0, 1, 7), strict=True):
        assert_same(measurement, make_measurement(seed))
    Record.resume(tmp_path / "branch", up_to=(0, 0))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    with pytest.raises(RecordError, match="already holds a record"):
        Record.branch(copy, tmp_path / "branch", up_to=(1, 10))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[1]",
        '{"checkpoint": "3", "finished": false}',
        '{"checkpoint": 3}',
        "[" * 4000,
        "\xff",
        "7" * 5000,
    ],
)
def test_a_progress_that_cannot_be_read_is_an_unknown_one(copy, text):
    record = Record.resume(copy)
    record.note(Progress(checkpoint=20))
    assert Record.open(copy).progress == Progress(checkpoint=20, finished=False)
    assert record.progress.goes_on_from(20)
    assert not record.progress.goes_on_from(19)
    record.note(Progress(checkpoint=20, finished=True))
    assert not record.progress.goes_on_from(20)
    (copy / "progress.json").unlink()
    if text is not None:
        (copy / "progress.json").write_text(text, encoding="latin-1")
    assert Record.open(copy).progress == Progress()
    assert not record.progress.goes_on_from(20)


def test_opening_changes_nothing(copy):
    (copy / ".run.json.99.tmp").write_text("left over")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    record = Record.open(copy)
    assert len(record.measurements[0].v) == S
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


# Being killed

KILLED = """
import os, signal, sys, time
import test_record as tools
from pathlib import Path
from interaction_monitor.record import Record
random = tools.random.Random(int(sys.argv[2]))
for run in range(int(sys.argv[3])):
    folder = Path(sys.argv[1]) / str(run)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        record = tools.make_record(folder, 0)
        for epoch in range(10_000):
            record.write(tools.make_measurement(epoch), tools.row_of(epoch))
            os.write(writing, b".")
    # Some are killed while the record is made, most while measurements are written.
    written = sum(len(os.read(reading, 1)) for _ in range(random.randrange(1, 8) if run % 4 else 0))
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as finished:
        print(written + len(finished.read()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
def test_a_killed_run_loses_at_most_the_measurement_in_progress(tmp_path):
    seed = random.randrange(10**6)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    output = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(seed), "10"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    finished = [int(line) for line in output.split()]
    assert sum(finished) > 0, "no run wrote anything before it was killed"
    for run, written in enumerate(finished):
        folder = tmp_path / str(run)
        if not (folder / "run.json").exists():
            assert written == 0
            make_record(folder, 1)  # a record that never began is begun anew
            assert len(Record.open(folder).history) == 1
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            record = Record.open(folder)
        kept = [row.epoch for row in record.history]
        assert kept in (list(range(written)), list(range(written + 1))), f"seed {seed}, run {run}"
        for epoch, measurement in enumerate(record.measurements):
            assert_same(measurement, make_measurement(epoch))
        assert len(record.problems) <= 1
        resumed = Record.resume(folder)
        assert not list(folder.rglob(".*"))
        resumed.write(make_measurement(5), row_of(20_000))
        assert Record.open(folder).problems == ()


# Damaged and hostile records


def read_all(folder):
    record = quiet_open(folder)
    for measurement in record.measurements:
        assert measurement.v.shape == (S, 2**N)
    assert record.players.n_players == N
    assert len(record.probe_inputs) == len(record.probe_targets) == S
    return record


FILES = ["run.json", "players.npz", "probe.npz", "history.csv", "measurements/epoch_00001_step_00000010.npz"]


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused_or_left_out(copy, name):
    whole = (copy / name).read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 30, len(whole) - 1}:
        (copy / name).write_bytes(whole[:length])
        if name.startswith("measurements"):
            with pytest.warns(UserWarning, match="epoch 1, step 10 is left out.*epoch_00001"):
                assert [row.epoch for row in Record.open(copy).history] == [0, 2]
        elif name == "run.json" and length == len(whole) - 1:
            assert read_all(copy)  # only the last line break is missing
        else:
            with pytest.raises(RecordError, match=name):
                read_all(copy)
    (copy / name).write_bytes(whole)
    assert read_all(copy)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_never_raise_anything_else(copy, name):
    randomness = random.Random(0)
    whole = (copy / name).read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(randomness.choice([1, 1, 8])):
            damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
        (copy / name).write_bytes(damaged)
        try:
            read_all(copy)
        except RecordError as error:
            if str(copy) not in str(error):
                raise


@pytest.mark.parametrize("name", FILES)
def test_missing_files(copy, name):
    (copy / name).unlink()
    if name.startswith("measurements"):
        with pytest.warns(UserWarning, match="epoch_00001_step_00000010.npz is missing"):
            assert len(Record.open(copy).history) == 2
    else:
        with pytest.raises(RecordError, match=rf"{name} is missing"):
            read_all(copy)


@pytest.mark.parametrize("name", ["players.npz", "history.csv", "measurements/epoch_00001_step_00000010.npz"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_plain_files_are_opened(copy, tmp_path, name, kind):
    path = copy / name
    outside = shutil.move(path, tmp_path / "outside")
    {"link": lambda: path.symlink_to(outside), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    if name.startswith("measurements"):
        assert [row.epoch for row in quiet_open(copy).history] == [0, 2]
    else:
        with pytest.raises(RecordError, match="no plain file"):
            read_all(copy)


def change_run(folder, change):
    run = json.loads((folder / "run.json").read_text())
    change(run)
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(version=2), "format version 2.*upgrade"),
        (lambda run: run.update(version="1"), "format version '1'"),
        (lambda run: run.update(format="other"), "not written by"),
        (lambda run: run.pop("settings"), "damaged: settings"),
        (lambda run: run.update(n_players=10**9), "damaged: n_players"),
        (lambda run: run.update(n_samples=-1), "damaged: n_samples"),
        (lambda run: run.update(n_samples=True), "damaged: n_samples"),
        (lambda run: run["players"].update(baseline="zero"), "damaged: players.baseline"),
        (lambda run: run["players"]["labels"].update(dtype="object"), "damaged: players.labels"),
        (lambda run: run["players"]["labels"].update(shape=[S, 10**12]), "players.npz: the array 'labels' declares"),
        (lambda run: run["players"].update(axes=[0, 0]), "players.npz does not fit run.json"),
        (lambda run: run["players"].update(names=[["a"]]), "damaged: players.names"),
        (lambda run: run["probe"].update(inputs=[]), "damaged: probe.inputs"),
        (lambda run: run["probe"]["inputs"][0].update(key=7), "damaged: probe.inputs"),
        (lambda run: run["probe"]["inputs"][0].update(dtype="int64"), "probe.npz: the array 'input_0'"),
        (lambda run: run["probe"].update(targets={"dtype": "int64", "shape": [9]}), "damaged: probe.targets"),
    ],
)  # fmt: skip
def test_bad_run_files(copy, change, message):
    change_run(copy, change)
    with pytest.raises(RecordError, match=message):
        read_all(copy)


def test_deeply_nested_json(copy):
    (copy / "run.json").write_text("[" * 200_000)
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        Record.open(copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("order_1", "first", "line 1: its first line does not name"),
        ("\n1,10,", "\n1.5,10,", "line 3: column 'epoch' holds '1.5'"),
        ("\n1,10,", "\n../../x,10,", "line 3: column 'epoch' holds '../../x'"),
        ("\n2,20,", "\n1,10,", "line 4: .*must increase"),
        ("\n2,20,", "\n2,20\n", "line 4"),
        ("one", "nine", "phase must be one of"),
    ],
)
def test_bad_histories(copy, old, new, message):
    path = copy / "history.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=f"history.csv, {message}" if message.startswith("line") else message):
        Record.open(copy)


def test_a_history_of_other_players(copy):
    change_run(copy, lambda run: run.update(n_players=3))
    with pytest.raises(RecordError, match=r"history\.csv, line 2: it has 4 orders, run\.json says 3"):
        Record.open(copy)


class Explosive:
    def __reduce__(self):
        return (os._exit, (1,))


def replace_array(path, name, array, *, compression=zipfile.ZIP_STORED, pickled=False):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            with archive.open(member, "w") as file:
                if member == f"{name}.npy":
                    np.lib.format.write_array(file, array, allow_pickle=pickled)
                else:
                    file.write(data)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((S, 2**N)), {"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        (np.array([[Explosive()]]), {"pickled": True}, "declares|is object"),
        (np.full((S, 2**N), Explosive()), {"pickled": True}, "declares|is object"),
        (np.zeros((S, 2**N), np.float32), {}, "declares .* bytes where"),
        (np.zeros((2**N, S)), {}, r"is float64 of shape \(16, 3\)"),
        (np.zeros((S, 2**N), np.int64), {}, "is int64"),
        (np.asfortranarray(np.zeros((S, 2**N))), {}, r"is float64 of shape"),
        (np.zeros(10**6), {}, "declares 8000128 bytes"),
    ],
)
def test_foreign_arrays_are_left_out(copy, array, options, message):
    path = copy / FILES[-1]
    replace_array(path, "v", array, **options)
    with pytest.warns(UserWarning, match=message):
        assert [row.epoch for row in Record.open(copy).history] == [0, 2]


@pytest.mark.parametrize("name", ["v", "and_", "or_", "strength"])
def test_a_sample_with_a_number_that_is_not_finite_is_not_valid_whatever_the_file_says(copy, name):
    path = copy / FILES[-1]
    array = getattr(make_measurement(1), name).numpy().copy()
    array[1, -1] = np.nan
    replace_array(path, name, array)
    assert Record.open(copy).measurements[1].valid.tolist() == [True, False, True]


def test_a_bomb_is_refused_before_it_is_unfolded(copy):
    path = copy / "players.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (S, 2, 2)})
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(RecordError, match=r"players\.npz: the array 'labels' is compressed"):
        assert Record.open(copy).players


def test_a_header_that_lies_about_its_size(copy):
    path = copy / "players.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("labels.npy", "w") as file:
        shape = {"descr": "<i8", "fortran_order": False, "shape": (2**40, 2, 2)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.write(bytes(8 * S * 4))
    with pytest.raises(RecordError, match="labels"):
        assert Record.open(copy).players


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("extra", ["../../escape.npy", "/etc/x.npy", "v.npy", "readme.txt"])
def test_other_members_are_refused(copy, extra):
    path = copy / FILES[-1]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(extra, b"x")
    with pytest.warns(UserWarning, match="other arrays than"):
        assert len(Record.open(copy).history) == 2


def test_a_flipped_bit_inside_a_large_array_is_found_when_it_is_read(tmp_path):
    players = make_players(labels=torch.arange(9).expand(S, 9), n_players=9, axes=(1,))
    record = make_record(tmp_path, 0, players=players)
    for epoch in range(2):
        record.write(make_measurement(epoch, n=9), row_of(epoch, n=9))
    path = tmp_path / FILES[-1]
    data = bytearray(path.read_bytes())
    data[data.index(make_measurement(1, n=9).v.numpy().tobytes()) + 8000] ^= 1
    path.write_bytes(data)
    record = Record.open(tmp_path)
    assert len(record.history) == 2
    assert_same(record.measurements[0], make_measurement(0, n=9))
    with pytest.raises(RecordError, match=r"epoch_00001_step_00000010\.npz is damaged: Bad CRC"):
        assert record.measurements[1]


def test_labels_outside_the_players(copy):
    files.write_arrays(copy / "players.npz", {"labels": np.full((S, 2, 2), 9)})
    with pytest.raises(RecordError, match=r"players\.npz does not fit run\.json: labels must be from -1"):
        assert Record.open(copy).players


def test_a_folder_without_a_record(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecordError, match=r"holds no record: run\.json is missing"):
            Record.open(folder)


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_arrays(tmp_path / "x.npz", {"x": np.array([Explosive()])})
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    files.write_arrays(path, {"x": np.arange(3)})
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_arrays(path, {"x": np.arange(4), "y": np.array([Explosive()])})
    assert files.read_arrays(path, {"x": ("int64", (3,))})["x"].tolist() == [0, 1, 2]
    assert [left.name for left in tmp_path.iterdir()] == ["a.npz"]
