"""The data loading of a run is the user's: the same losses, steps and data with and without the monitor."""

import multiprocessing
import socket
import sqlite3
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Thread

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)

from interaction_monitor import InteractionMonitor, Probe
from interaction_monitor.loading import process
from interaction_monitor.players import Columns

N, WIDTH = 60, 4


class Net(L.LightningModule):
    """Keeps the losses of all batches, of training and of validation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 2))
        self.losses = []

    def forward(self, x):
        return self.layers(x)

    def _step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append((self.training, loss.item()))
        return loss

    training_step = validation_step = _step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def item(index):
    return torch.arange(WIDTH) * float(index) / N, index % 2


class Map(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return item(index)


class Counting(Map):
    """Counts its items where it is held, in its class, in a tensor, in an array and in memory that processes share."""

    everywhere = 0

    def __init__(self):
        self.here = 0
        self.tensor, self.array = torch.zeros(1), np.zeros(1)
        self.shared, self.value = torch.zeros(1).share_memory_(), multiprocessing.Value("i", 0)

    def counts(self):
        return [self.here, self.everywhere, *map(float, (self.tensor, self.array[0], self.shared, self.value.value))]

    def __getitem__(self, index):
        self.here += 1
        type(self).everywhere += 1
        self.tensor += 1
        self.array += 1
        self.shared += 1
        with self.value.get_lock():
            self.value.value += 1
        x, y = item(index)
        return x + self.here % 7, y


class Drawing(Map):
    """Draws noise from generators of its own, of its module and of a function."""

    def __init__(self):
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)
        hidden = np.random.default_rng(1)
        self.transform = lambda x: x + hidden.random()
        GENERATORS.append(np.random.default_rng(2))

    def __getitem__(self, index):
        x, y = item(index)
        return self.transform(x) + self.numpy.random() + torch.rand(1, generator=self.torch) + GENERATORS[
            -1
        ].random(), y


GENERATORS = []


class Zipped(Map):
    """Opens its archive when it is first asked."""

    def __init__(self, path):
        self.path, self.zip = path, None

    def __getitem__(self, index):
        if self.zip is None:
            self.zip = zipfile.ZipFile(self.path)
        return torch.from_numpy(np.frombuffer(self.zip.read(str(index)), dtype=np.float32).copy()), index % 2


class Filed(Map):
    """Reads its rows from a file that is open from the start, or from when it is first asked."""

    def __init__(self, path, lazy):
        self.path, self.file = path, None if lazy else open(path, "rb")  # noqa: SIM115  # stays open, as users have it

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115  # as above
        self.file.seek(4 * WIDTH * index)
        return torch.from_numpy(np.frombuffer(self.file.read(4 * WIDTH), dtype=np.float32).copy()), index % 2


class Stream(IterableDataset):
    """Goes on where it was left, with noise of its own."""

    def __init__(self, n=N, *, restarts=True):
        self.n, self.restarts = n, restarts
        self.rng = np.random.default_rng(0)
        self.left = iter(range(n))

    def __iter__(self):
        for index in range(self.n) if self.restarts else self.left:
            x, y = item(index)
            yield x + self.rng.random(), y


class Lines(IterableDataset):
    """Reads on in a file that is open, as one reads from a pipe."""

    def __init__(self, path):
        self.file = open(path)  # noqa: SIM115  # as above

    def __iter__(self):
        for line in self.file:
            yield item(int(line))


def halves(items):
    """A collate function that mixes the first half of a batch with the second."""
    x, y = torch.utils.data.default_collate(items)
    assert len(x) % 2 == 0
    first, second = x.chunk(2)
    return torch.cat([first + 0.1 * second, second + 0.1 * first]), y


class Queries:
    """A sampler that asks for items by more than their number."""

    def __iter__(self):
        return iter([(index, "left" if index % 3 else "right") for index in range(20, 50)])

    def __len__(self):
        return 30


class Asked(Map):
    def __getitem__(self, query):
        index, side = query
        x, y = item(index)
        return x if side == "left" else -x, y


class Pairs:
    """A sampler of batches: each is of two neighbours."""

    def __iter__(self):
        return iter([[index, index + 1] for index in range(10, 40, 2)])

    def __len__(self):
        return 15


def zipped(folder):
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(N):
            archive.writestr(str(index), item(index)[0].numpy().tobytes())
    parts = random_split(Zipped(path), [40, 20], generator=torch.Generator().manual_seed(0))
    return [DataLoader(part, 10, num_workers=2) for part in parts]


def filed(folder, *, lazy, workers):
    path = folder / "data.bin"
    path.write_bytes(b"".join(item(index)[0].numpy().tobytes() for index in range(N)))
    parts = random_split(Filed(path, lazy), [40, 20], generator=torch.Generator().manual_seed(0))
    return [DataLoader(part, 10, num_workers=workers) for part in parts]


def lines(folder):
    (folder / "lines").write_text("".join(f"{index % N}\n" for index in range(4000)))
    return [DataLoader(Lines(folder / "lines"), 10) for _ in range(2)]


def both(make, **options):
    return lambda folder: [DataLoader(make(), 10, **options) for _ in range(2)]


def one(make, **options):
    """Training and validation share a dataset."""

    def loaders(folder):
        data = make()
        return [DataLoader(data, 10, **options) for _ in range(2)]

    return loaders


def sampled(make):
    return lambda folder: [DataLoader(Map(), 10, sampler=make()) for _ in range(2)]


KINDS = {
    "zip opened late, split, workers": zipped,
    "file opened late, workers": partial(filed, lazy=True, workers=1),
    "file opened late": partial(filed, lazy=True, workers=0),
    "file open from the start": partial(filed, lazy=False, workers=0),
    "counting": one(Counting),
    "counting, workers": one(Counting, num_workers=1),
    "counting, workers that persist": both(Counting, num_workers=1, persistent_workers=True),
    "drawing": one(Drawing),
    "drawing, workers": one(Drawing, num_workers=1),
    "stream": one(Stream),
    "stream, worker that persists": both(Stream, num_workers=1, persistent_workers=True),
    "stream that goes on": both(partial(Stream, 1000, restarts=False)),
    "stream that ends": both(partial(Stream, 200, restarts=False)),
    "stream from an open file": lines,
    "subset": sampled(lambda: SubsetRandomSampler(range(20, 50), generator=torch.Generator())),
    "weights": sampled(lambda: WeightedRandomSampler(torch.arange(N) % 3, N, generator=torch.Generator())),
    "batches": lambda folder: [DataLoader(Map(), batch_sampler=Pairs()) for _ in range(2)],
    "queries": both(Asked, sampler=Queries()),
    "mixed halves": both(Map, collate_fn=halves, shuffle=True),
    "mixed halves, workers": both(Map, collate_fn=halves, shuffle=True, num_workers=1),
}


def train(loaders, make_trainer, *, callbacks=(), module=Net, **options):
    Counting.everywhere = 0
    L.seed_everything(0, verbose=False)
    net = module()
    limits = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 2}
    trainer = make_trainer(*callbacks, logger=False, enable_checkpointing=False, **limits | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, *loaders)
    return net, trainer


def monitor(**options):
    given = {"n_samples": 4, "n_train_samples": 4, "interactions": "and", "on_error": "raise"}
    return InteractionMonitor(Columns(n_players=3), **given | options)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_the_same(kind, make_trainer, tmp_path):
    def run(*callbacks):
        loaders = KINDS[kind](tmp_path)
        net, trainer = train(loaders, make_trainer, callbacks=callbacks)
        counts = [loader.dataset.counts() for loader in loaders if isinstance(loader.dataset, Counting)]
        return net.losses, trainer.global_step, counts, torch.get_rng_state().tolist()

    measured = monitor()
    assert run() == run(measured)
    assert len(measured.observer.history) == 2


def test_the_comparison_notices_data_that_are_read(make_trainer, tmp_path):
    class Careless(L.Callback):
        def on_train_start(self, trainer, net):
            next(iter(trainer.train_dataloader))

    loaders = KINDS["drawing"]
    alone, _ = train(loaders(tmp_path), make_trainer)
    disturbed, _ = train(loaders(tmp_path), make_trainer, callbacks=[Careless()])
    assert alone.losses != disturbed.losses


def indices(probe):
    return (probe.inputs[:, 1] * N).round().int().tolist()


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"sampler": SubsetRandomSampler(range(20, 50))}, set(range(20, 50))),
        ({"sampler": WeightedRandomSampler(torch.arange(N) % 3, 5)}, {i for i in range(N) if i % 3}),
        ({"batch_sampler": Pairs()}, set(range(10, 40))),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler(range(20, 50)), 7, drop_last=True)}, set(range(20, 50))),
        ({"sampler": [3, 5, 8, 13, 21, 34]}, {3, 5, 8, 13, 21, 34}),
        ({"sampler": RandomSampler(range(N), num_samples=8)}, set(range(N))),
    ],
)
def test_samples_come_from_the_sampler(options, allowed):
    found = indices(Probe.from_loader(DataLoader(Map(), **options), 6))
    assert len(set(found)) == 6
    assert set(found) <= allowed
    if len(allowed) > 6:
        assert sum(index % 2 for index in found) == 3


def test_queries_are_asked_as_they_are():
    probe = Probe.from_loader(DataLoader(Asked(), 5, sampler=Queries()), 20)
    found = (probe.inputs[:, 1] * N).round().int().tolist()
    assert all(20 <= abs(index) < 50 and (index > 0) == bool(abs(index) % 3) for index in found)


@pytest.mark.parametrize("n_samples", [3, 5, 8])
def test_the_collate_function_gets_whole_batches(n_samples):
    sizes = []

    def collate(items):
        sizes.append(len(items))
        if len(items) != 6:
            raise ValueError(f"batches have 6 items, not {len(items)}")
        return torch.utils.data.default_collate(items)

    probe = Probe.from_loader(DataLoader(Map(), 6, collate_fn=collate), n_samples)
    assert len(set(indices(probe))) == n_samples
    assert sizes == []  # it ran elsewhere


def test_a_batch_that_comes_short_is_as_short_as_the_data():
    data = torch.utils.data.Subset(Map(), range(4))
    assert len(Probe.from_loader(DataLoader(data, 6, collate_fn=halves), 3)) == 3


def test_workers_start_as_the_users_do(tmp_path):
    def start(number):
        (tmp_path / f"worker {number}").touch()

    Probe.from_loader(DataLoader(Map(), 5, num_workers=2, worker_init_fn=start), 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker 0", "worker 1"]


def test_workers_that_persist_go_on_unharmed():
    loader = DataLoader(Map(), 5, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    first = next(batches)
    Probe.from_loader(loader, 5)
    rest = list(batches)
    again = list(loader)
    assert torch.equal(torch.cat([first[0], *(x for x, _ in rest)]), torch.cat([x for x, _ in again]))


def test_an_error_in_the_data_is_raised_as_it_is():
    class Broken(Map):
        def __getitem__(self, index):
            raise OSError("disk on fire")

    for workers in (0, 1):
        with pytest.raises(OSError, match="disk on fire"):
            Probe.from_loader(DataLoader(Broken(), num_workers=workers), 3)


def test_a_process_that_dies_or_hangs_is_told():
    with pytest.raises(RuntimeError, match="ended with exit code -9"):
        process.in_own_process(lambda: multiprocessing.process.os.kill(multiprocessing.process.os.getpid(), 9))
    with pytest.raises(TimeoutError, match="longer than 0 s"):
        process.in_own_process(lambda: multiprocessing.Event().wait(), longest=0.05)
    assert not multiprocessing.active_children()


def test_what_processes_share_is_refused(make_trainer):
    class Cached(Map):
        def __init__(self, cache):
            self.cache = cache

        def __getitem__(self, index):
            return self.cache.setdefault(index, item(index))

    with multiprocessing.Manager() as manager:
        loader = DataLoader(Cached(manager.dict()), 10)
        with pytest.raises(MisconfigurationException, match=r"DictProxy.*share; give probe=Probe\(inputs, targets\)"):
            train([DataLoader(Map(), 10), loader], make_trainer, callbacks=[monitor()])
        with pytest.raises(MisconfigurationException, match=r"DictProxy.*share.*; leave n_train_samples=4 away"):
            train([loader, DataLoader(Map(), 10)], make_trainer, callbacks=[monitor()])
        assert len(loader.dataset.cache) == 20  # from the sanity check


def test_a_connection_that_is_open_is_refused_and_nothing_is_sent():
    ours, theirs = socket.socketpair()
    with ours, theirs:

        class Served(Map):
            def __getitem__(self, index):
                ours.send(b"an item, please")
                return item(index)

        for workers in (0, 1):
            with pytest.raises(
                ValueError, match=r"use a connection that is open in the run.*; make the probe yourself"
            ):
                Probe.from_loader(DataLoader(Served(), num_workers=workers), 3)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


@pytest.mark.parametrize("idle", [0, 2])
def test_data_that_a_thread_of_the_run_loads_are_refused(make_trainer, monkeypatch, idle):
    monkeypatch.setattr(process, "WITHOUT_HOPE", 0.5)
    pool = ThreadPoolExecutor(1)

    class Pooled(Map):
        def __getitem__(self, index):
            for _ in range(idle):  # as torch keeps some to compute with
                Thread(target=Event().wait, daemon=True).start()
            return pool.submit(item, index).result()

    loaders = [DataLoader(Pooled(), 10) for _ in range(2)]
    with (
        pool,
        pytest.raises(
            MisconfigurationException, match=r"wait for a thread of the run.*; give probe=Probe\(inputs, targets\)"
        ),
    ):
        train(loaders, make_trainer, callbacks=[monitor()])


def test_a_database_that_is_open_is_read(tmp_path):
    class Stored(Map):
        def __init__(self):
            self.base = sqlite3.connect(tmp_path / "data.db")
            self.base.execute("create table items (x real)")
            self.base.executemany("insert into items values (?)", [(index / N,) for index in range(N)])
            self.base.commit()

        def __getitem__(self, index):
            (x,) = self.base.execute("select x from items where rowid = ?", (index + 1,)).fetchone()
            return torch.full((WIDTH,), x), index % 2

    assert set(indices(Probe.from_loader(DataLoader(Stored(), 5), N))) == set(range(N))


@pytest.fixture
def no_fork(monkeypatch):
    monkeypatch.setattr("interaction_monitor.loading.can_fork", lambda method: False)


@pytest.mark.parametrize("kind", ["file opened late, workers", "stream that goes on", "weights", "batches"])
def test_losses_are_the_same_where_nothing_can_be_forked(kind, no_fork, make_trainer, tmp_path):
    test_losses_are_the_same(kind, make_trainer, tmp_path)


def test_the_choice_is_the_same_where_nothing_can_be_forked(monkeypatch):
    loader = DataLoader(Map(), 7, sampler=SubsetRandomSampler(range(20, 50)))
    forked = Probe.from_loader(loader, 6)
    monkeypatch.setattr("interaction_monitor.loading.can_fork", lambda method: False)
    assert torch.equal(Probe.from_loader(loader, 6).inputs, forked.inputs)


def test_what_cannot_be_copied_is_named(no_fork, make_trainer, tmp_path):
    loaders = KINDS["file open from the start"](tmp_path)
    message = r"dataset\.dataset\.file \(BufferedReader\) cannot be copied.*; give probe=Probe\(inputs, targets\)"
    with pytest.raises(MisconfigurationException, match=message):
        train(loaders, make_trainer, callbacks=[monitor()])
    with pytest.raises(ValueError, match=r"generator.*cannot be copied.*; make the probe yourself"):
        Probe.from_loader((batch for batch in [torch.rand(5, 2)]), 3)


class Big(Map):
    def __getitem__(self, index):
        x, y = item(index)
        return x * 255, y


class Seeing(Net):
    """Keeps the largest input of each batch, which the hooks have brought to 2 at most."""

    def __init__(self):
        super().__init__()
        self.seen, self.calls = [], 0

    def _step(self, batch, batch_idx):
        self.seen.append(batch["x"].abs().max().item())
        return super()._step((batch["x"], batch["y"]), batch_idx)

    training_step = validation_step = _step


class Hooks:
    """Scales and names its batches, with noise in training, and counts."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls += 1
        return [batch[0] / 255, batch[1]]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return {"x": batch[0].to(device), "y": batch[1].to(device)}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x = batch["x"]
        if self.trainer.training:
            x = x + torch.rand(len(x), 1)
        return {"x": (x - 1) / 2, "y": batch["y"]}


class Hooked(Hooks, Seeing):
    pass


class Data(Hooks, L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def train_dataloader(self):
        return DataLoader(Big(), 10)

    val_dataloader = train_dataloader


@pytest.mark.parametrize("owner", [Hooked, Data])
def test_the_network_sees_what_validation_hands_it(owner, make_trainer):
    def run(*callbacks):
        data = [DataLoader(Big(), 10) for _ in range(2)] if owner is Hooked else [Data()]
        net, _ = train(data, make_trainer, module=Hooked if owner is Hooked else Seeing, callbacks=callbacks)
        calls = (net if owner is Hooked else data[0]).calls
        return net.losses, net.seen, calls, torch.get_rng_state().tolist()

    def forward(net, inputs):
        return net(inputs["x"])

    watching = monitor(forward_func=forward)
    assert run() == run(watching)
    for probe in (watching.observer.probe, watching.observer.train[0]):
        index = (probe.inputs["x"][:, 1] * 2 + 1) * N
        assert torch.allclose(index, index.round(), atol=1e-4)  # nothing of the noise of training
        assert torch.equal(index.round() % 2, probe.targets.double())
        assert probe.inputs["x"].abs().max() <= 2
