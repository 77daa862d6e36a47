"""Damaged and hostile records and checkpoints: values, or the package's own error, in bounded time and memory.

Each input is a valid record with one to three changes. It is opened and everything in it read; over every so many of
those that open, the theory is laid, and a report is written. `INTERACTION_MONITOR_FUZZ=20000` makes so many inputs.
"""

import copy
import io
import json
import math
import os
import random
import shutil
import signal
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from interaction_monitor.callbacks.resume import check, restore, state_of
from interaction_monitor.functional import and_outputs, orders
from interaction_monitor.history.row import summarise
from interaction_monitor.measurement import interpret
from interaction_monitor.observer import Observer
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.schedule import Budget
from interaction_monitor.theory import NoOverlayError, fit_record

INPUTS = int(os.environ.get("INTERACTION_MONITOR_FUZZ", "300"))
SEED = int(os.environ.get("INTERACTION_MONITOR_FUZZ_SEED", "0"))
SECONDS, MEBIBYTES = 20, 1500  # for one input, and for all beyond what the process takes before
S, N = 4, 3
NUMBERS = [0, 1, -1, 2, 7, 1.5, 1e308, -1e308, 5e-324, 2**31, 2**53, 2**63, 10**40, True, math.nan, math.inf, -math.inf]
TEXTS = [
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "\ud800",
    "\0",
    "<script>",
    "1e999",
    "9" * 5000,
    "𝟙",
    "nan",
    "None",
    "é" * 999,
]
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="limits time as POSIX does")


def make_records(folder):
    """One record of each kind: images and both interactions, words and one, a table without targets."""
    generator = torch.Generator().manual_seed(0)
    images = (
        PlayerMap(torch.tensor([[[0, 1], [2, -1]]] * S), N, (2, 3), torch.zeros(1, 1, 2, 2)),
        Probe(torch.rand(S, 1, 2, 2, generator=generator), torch.arange(S) % 2),
    )
    words = (
        PlayerMap(torch.tensor([[0, 1, 2, -1]] * S), N, (1,), 0, input_key="ids", names=(("wörd", "<b>", "c"),) * S),
        Probe({"ids": torch.arange(4).repeat(S, 1), "mask": torch.ones(S, 4).bool()}, torch.arange(S)),
    )
    table = PlayerMap(torch.tensor([[0, 1, 2]] * S), N, (1,), 0.5), Probe(torch.rand(S, 3))
    for number, ((players, probe), kind) in enumerate([(images, "and-or"), (words, "and"), (table, "and")]):
        settings = {"interactions": kind, "output": "log_odds", "thresholds": {"noise": 0.02, "tol": 0.01}, "seed": 0}
        record = Record.create(folder / str(number), settings=settings, players=players, probe=probe)
        tracker = PhaseTracker()
        weights = torch.randn(S, 2**N, generator=generator, dtype=torch.float64)
        for epoch, slope in enumerate((0.0, 2.0, 1.5, 1.0, 0.8)):
            measurement = interpret(and_outputs(weights / 2.0 ** (slope * orders(N))), interactions=kind)
            losses = {"train_loss": 1.0 / (1 + epoch), "test_loss": 1.0}
            state = tracker.update(epoch=epoch, strength=measurement.strength, **losses)
            record.write(measurement, summarise(measurement, state, epoch=epoch, step=3 * epoch, **losses))
    return [folder / str(number) for number in range(3)]


class Explosive:
    def __reduce__(self):
        return os._exit, (86,)


# Changes to any file: whatever a disk, a transfer or an enemy does to bytes.


def flip(data, chance, _):
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 4, 64])):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def cut(data, chance, _):
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.7 else data[chance.randrange(len(data) + 1) :]


def splice(data, chance, others):
    other = chance.choice(others)
    start, at = chance.randrange(len(other) + 1), chance.randrange(len(data) + 1)
    piece = other[start : start + chance.choice([1, 8, 100, 10_000])]
    return data[:at] + piece + data[at + chance.choice([0, len(piece)]) :]


def repeat(data, chance, _):
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice([1, 20, 500])]
    return data[:start] + piece * chance.choice([2, 3, 200]) + data[start:]


def wipe(data, chance, _):
    start, size = chance.randrange(len(data) + 1), chance.choice([1, 8, 512])
    piece = bytes([chance.choice([0, 255, 32, 57])]) * len(data[start : start + size])
    return data[:start] + piece + data[start + size :]


def replace(_, chance, others):
    return chance.choice([b"", b"\n", b"PK\5\6" + bytes(18), chance.randbytes(300), chance.choice(others)])


# Changes that know the file: hostile values in well-formed places.


def change_json(path, chance):
    run = json.loads(path.read_text())
    inner = run
    while True:
        key = chance.choice(sorted(inner) if isinstance(inner, dict) else range(len(inner)))
        if isinstance(inner[key], (dict, list)) and inner[key] and chance.random() < 0.75:
            inner = inner[key]
            continue
        break
    nested = []
    for _ in range(chance.choice([1, 60, 900])):
        nested = [nested] if chance.random() < 0.5 else {"noise": nested}
    hostile = [*NUMBERS, *TEXTS, None, [], {}, [0] * 300, {"dtype": "object", "shape": [1]}, nested]
    action = chance.random()
    if action < 0.15:
        del inner[key]
    elif isinstance(inner, list) and action < 0.3:
        inner.append(chance.choice(hostile))
    else:
        inner[key] = chance.choice(hostile)
    path.write_bytes(json.dumps(run, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def change_table(path, chance):
    lines = [line.split(",") for line in path.read_text().split("\n")[:-1]]
    row = chance.randrange(len(lines))
    column = chance.randrange(len(lines[row]))
    action = chance.choice(["cell", "cell", "cell", "cell", "delete", "double", "swap", "shorter", "longer", "column"])
    if action == "cell":
        lines[row][column] = str(chance.choice([*NUMBERS, *TEXTS, '"', "1\n2", "two", "initial"]))
    elif action == "delete":
        del lines[row]
    elif action == "double":
        lines.insert(row, lines[row])
    elif action == "swap":
        chance.shuffle(lines)
    elif action == "shorter":
        del lines[row][column:]
    elif action == "longer":
        lines[row] += ["0"] * chance.choice([1, 500])
    else:
        for line in lines:
            del line[min(column, len(line) - 1) :][:1]
            line.insert(column, "order_9")
    text = "\n".join(",".join(line) for line in lines) + "\n"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def header(shape, descr):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def packed(array, *, pickled=False):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=pickled)
    return file.getvalue()


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_members(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def change_values(path, chance):
    """Put hostile numbers into an array, in a file that is right in every other way."""
    members = members_of(path)
    name = chance.choice(sorted(members))
    array = np.lib.format.read_array(io.BytesIO(members[name]), allow_pickle=False)
    flat = array.reshape(-1).copy()
    with np.errstate(all="ignore"):
        for value in [chance.choice(NUMBERS) for _ in range(chance.choice([1, 4]))]:
            where = chance.randrange(max(1, flat.size))
            try:
                flat[where : where + chance.choice([1, 1, 10**6])] = value
            except (OverflowError, ValueError):  # an integer array cannot hold it
                flat[where : where + 1] = -9
    if flat.dtype == bool and chance.random() < 0.5:
        flat = np.frombuffer(chance.randbytes(flat.size), dtype=bool)
    members[name] = packed(flat.reshape(array.shape))
    write_members(path, members)


def change_arrays(path, chance):
    if chance.random() < 0.3:
        change_values(path, chance)
        return
    members, compression = members_of(path), zipfile.ZIP_STORED
    name = chance.choice(sorted(members))
    array = np.lib.format.read_array(io.BytesIO(members[name]), allow_pickle=False)
    action = chance.choice(["dtype", "shape", "header", "pickle", "member", "drop", "deflate", "version"])
    if action == "dtype":
        kinds = ["float32", "int8", "complex128", "U7", "V9", ">f8", "O", "m8[s]"]
        try:
            members[name] = packed(array.astype(chance.choice(kinds)), pickled=True)
        except (TypeError, ValueError):
            members[name] = packed(np.zeros(array.shape, "S3"))
    elif action == "shape":
        shapes = [array[None], array.reshape(-1)[:-1], array.T, np.zeros(0), np.zeros(9999)]
        members[name] = packed(chance.choice(shapes))
    elif action == "header":
        shapes = [(2**40, 2, 2), (0,), (S, 2**62), (-1, 4), (S,) * 30, ()]
        descr = chance.choice(["<f8", "|O", "<i8", "|V99999999", [("a", "<f8")], "|b1"])
        members[name] = header(chance.choice(shapes), descr) + bytes(chance.choice([0, 8, 4096]))
    elif action == "pickle":
        members[name] = packed(np.full(chance.choice([array.shape, (1,)]), Explosive(), dtype=object), pickled=True)
    elif action == "member":
        members[chance.choice(["../../escape.npy", "/etc/x.npy", "v", "run.json", "or_.npy", "x" * 9999])] = b"x" * 99
    elif action == "drop":
        del members[name]
    elif action == "deflate":
        compression = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        if chance.random() < 0.5:
            members[name] = header((2**22,), "|b1") + bytes(2**22)
    else:
        members[name] = members[name][:6] + bytes([chance.choice([2, 3, 9]), 0]) + members[name][8:]
    write_members(path, members, compression)


def change_kind(path, chance):
    """Put something else in the place of a file."""
    inside = path.read_bytes()
    path.unlink()
    kind = chance.choice(["link", "loop", "pipe", "folder", "sparse", "missing", "device", "behind a link"])
    if kind == "link":
        shutil.copy(__file__, path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.write_bytes(inside)
        os.truncate(path, 2**35)
    elif kind == "behind a link":
        path.write_bytes(inside)
        parent = path.parent
        if parent.name == "measurements":
            parent.rename(parent.with_name("elsewhere"))
            parent.symlink_to("elsewhere")


def damage(folder, chance, *, gently=False):
    """Change a record in one to three places, or only in ways that many a reader would not notice; say how."""
    done = []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        files = [path for path in files if path.name != "elsewhere" and path.stat().st_size < 2**25]
        # One of the kinds first: most files are measurements.
        kinds = {path.name if path.parent == folder else path.parent.name for path in files}
        if not kinds:
            break
        kind = chance.choice(sorted(kinds))
        path = chance.choice([path for path in files if kind in (path.name, path.parent.name)])
        knowing = {".json": change_json, ".csv": change_table, ".npz": change_arrays}[path.suffix]
        if gently and knowing is change_arrays:
            knowing = change_values
        blind = [flip, cut, splice, repeat, wipe, replace]
        action = knowing if gently else chance.choice([*blind, change_kind, knowing, knowing, knowing, knowing])
        try:
            if action in blind:
                others = [other.read_bytes() for other in files]
                path.write_bytes(action(path.read_bytes(), chance, others))
            else:
                action(path, chance)
        except Exception:
            continue  # a second change to a file that the first has made unreadable
        done.append(f"{action.__name__} {path.name}")
    return done


@contextmanager
def limits():
    """Give one input its time."""

    def late(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(folder):
    record = Record.open(folder)
    history, measurements = record.history, list(record.measurements)
    assert len(history) == len(measurements)
    for name in ("mean_order", "onset_epoch", "loss_gap", "phase", "seconds", "n_valid"):
        history.column(name)
    assert history.distribution.shape == history.strength.shape
    for measurement in measurements:
        assert measurement.v.shape[1:] == (2**record.n_players,)
        assert measurement.and_[measurement.valid].isfinite().all()
    assert record.players.labels.shape[0] == record.n_samples
    assert (
        len(record.probe_targets if record.probe_targets is not None else range(record.n_samples)) == record.n_samples
    )
    assert record.probe_inputs is not None
    assert (len(record.waiting), record.progress, str(record.settings)) is not None
    return record


def outcome(folder, deeper=None):
    """What reading a record comes to: "whole", "partly", "refused"; or the exception that must not be."""
    with warnings.catch_warnings(), limits():
        warnings.simplefilter("ignore")
        try:
            record = read(folder)
        except RecordError as error:
            if str(folder) not in str(error):
                raise AssertionError(f"the message names no file: {error}") from error
            return "refused"
        if deeper is not None:
            try:
                deeper(record)
            except (NoOverlayError, RecordError):
                return "nothing to show"
    return "partly" if record.left_out else "whole"


def peak():
    """The most memory that this process has held, in MiB."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(tmp_path, inputs, *, deeper=None, seed=SEED):
    masters = make_records(tmp_path / "masters")
    for master in masters:
        assert outcome(master, deeper) == "whole"
    before = peak()
    found, broken = Counter(), []
    for number in range(inputs):
        chance = random.Random(f"{seed} {number}")
        folder = tmp_path / f"input {number}"
        shutil.copytree(chance.choice(masters), folder)
        done = damage(folder, chance, gently=deeper is not None)
        try:
            found[outcome(folder, deeper)] += 1
        except Exception as error:
            broken.append(f"input {number} of seed {seed} ({', '.join(done)}): {error!r:.300}")
        shutil.rmtree(folder)
    assert broken == []
    assert peak() - before < MEBIBYTES
    print(f"{inputs} inputs of seed {seed}: {dict(found)}, {peak() - before:.0f} MiB more")
    return found


def test_damaged_records_are_read_or_refused(tmp_path):
    found = fuzz(tmp_path, INPUTS)
    assert min(found[kind] for kind in ("whole", "partly", "refused")) > INPUTS // 50


def test_the_theory_over_damaged_records(tmp_path):
    fuzz(tmp_path, INPUTS // 10, deeper=fit_record, seed=SEED + 1)


def test_reports_of_damaged_records(tmp_path):
    from interaction_monitor.report import report_page

    fuzz(tmp_path, INPUTS // 50, deeper=lambda record: report_page(record).encode(), seed=SEED + 2)


# Checkpoints


def state_of_a_run():
    """A monitor's state as a checkpoint holds it, and a maker of what it is restored to."""
    probe = Probe(torch.rand(S, 3), torch.arange(S))
    players = PlayerMap(torch.tensor([[0, 1, 2]] * S), N, (1,), 0.5)
    make = partial(Observer, probe, players, interactions="and")
    observer, budget = make(), Budget(None)
    model = torch.nn.Linear(3, 4)
    for epoch in range(4):
        observer.observe(model, epoch=epoch, step=3 * epoch, train_loss=1.0, test_loss=2.0)
    return state_of(observer, budget, {"seed": 0, "players": {"kind": "Columns"}}, shown=8), make


def mangle(value, chance):
    """Change one place in a nest of dicts and lists."""
    keys = list(value if isinstance(value, dict) else range(len(value)))
    key = chance.choice(keys)
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and chance.random() < 0.85:
        mangle(inner, chance)
    elif isinstance(inner, torch.Tensor) and chance.random() < 0.7:
        value[key] = chance.choice([inner[:-1], inner.double(), inner + 5, inner.flatten(), inner[None], inner - 3])
    elif chance.random() < 0.2:
        del value[key]
    else:
        value[key] = chance.choice([*NUMBERS, *TEXTS, None, [], {}, [1], {"a": 1}, torch.zeros(0), torch.ones(3)])


def test_mangled_states_are_taken_or_refused():
    state, make = state_of_a_run()
    found = Counter()
    for number in range(INPUTS * 2):
        chance = random.Random(f"{SEED} state {number}")
        mangled = copy.deepcopy(state)
        for _ in range(chance.choice([1, 1, 3])):
            mangle(mangled, chance)
        observer = make()
        try:
            check(mangled, {"seed": 0, "players": {"kind": "Columns"}})
            restore(mangled, observer, Budget(None))
            # What was taken must not break the next measurement.
            observer.observe(torch.nn.Linear(3, 4), epoch=2**52, step=2**52, train_loss=1.0, test_loss=2.0)
            found["taken"] += 1
        except ValueError:
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"state {number} of seed {SEED}: {error!r}") from error
    print(f"{2 * INPUTS} states of seed {SEED}: {dict(found)}")
    assert min(found.values()) > INPUTS // 20
