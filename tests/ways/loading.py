"""Ways to load data: what a dataset, a sampler, a stream, a loader or a data module may hold and change."""

import functools
import multiprocessing
import queue
import random
import sqlite3
import threading
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from ways.run import BATCH, WIDTH, Map, N, Net, item, way

BOTH = {"n_train_samples": 3}


def fit(run, train, val=None, **options):
    """Train where training and validation read the same, and the monitor takes samples of both."""
    watch = {**BOTH, **options.pop("watch", {})}
    return run.fit(options.pop("net", None), train, train if val is None else val, watch=watch, **options)


@way()
def shuffled(run):
    fit(run, run.loader(shuffle=True), run.loader())


@way()
def a_generator_of_the_loaders_own(run):
    fit(run, run.loader(shuffle=True, generator=torch.Generator().manual_seed(3)))


@way()
def a_generator_that_loader_and_sampler_share(run):
    generator = torch.Generator().manual_seed(3)
    sampler = RandomSampler(Map(), generator=generator)
    fit(run, run.loader(sampler=sampler, generator=generator))


@way()
def a_subset_as_sampler(run):
    fit(run, run.loader(sampler=SubsetRandomSampler(range(10, 20))))


@way()
def weights_as_sampler(run):
    fit(run, run.loader(sampler=WeightedRandomSampler(torch.arange(N) % 3, N, generator=torch.Generator())))


@way()
def batches_as_sampler(run):
    sampler = BatchSampler(SubsetRandomSampler(range(2, 18)), 3, drop_last=True)
    fit(run, DataLoader(Map(), batch_sampler=sampler))


class Moving(Sampler):
    """Starts one further each time, and counts."""

    def __init__(self):
        self.start, self.given, self.rng = 0, [], random.Random(0)

    def __iter__(self):
        self.start += 1
        for index in range(self.start, N):
            self.given.append(index)
            yield index if self.rng.random() < 0.9 else 0

    def __len__(self):
        return N - 3


@way()
def a_sampler_that_moves_on(run):
    fit(run, run.loader(sampler=Moving(), drop_last=True), limit_train_batches=3, limit_val_batches=2)


@way()
def a_sampler_without_a_length(run):
    class Endless:
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __iter__(self):
            while True:
                yield int(self.rng.integers(N))

    fit(run, run.loader(sampler=Endless()), limit_train_batches=4, limit_val_batches=2)


@way()
def a_sampler_that_is_told_its_epoch(run):
    class Told(Sampler):
        epochs = ()

        def set_epoch(self, epoch):
            self.epochs = (*self.epochs, epoch)

        def __iter__(self):
            return iter(torch.randperm(N, generator=torch.Generator().manual_seed(self.epochs[-1])).tolist())

        def __len__(self):
            return N

    fit(run, run.loader(sampler=Told()), run.loader())


@way()
def queries_as_sampler(run):
    class Asked(Map):
        def __getitem__(self, query):
            index, side = query
            return (item(index)[0] if side == "left" else -item(index)[0]), index % 2

    fit(run, run.loader(Asked(), sampler=[(index, "left" if index % 3 else "right") for index in range(N)]))


class Counting(Map):
    def __init__(self):
        self.here, self.last = 0, deque(maxlen=5)
        self.tensor, self.array = torch.zeros(1), np.zeros(1)
        self.shared, self.value = torch.zeros(1).share_memory_(), multiprocessing.Value("i", 0)

    def __getitem__(self, index):
        self.here += 1
        self.tensor += 1
        self.array += 1
        self.shared += 1
        self.last.append(index)
        with self.value.get_lock():
            self.value.value += 1
        x, y = item(index)
        return x + self.here % 7, y


@way()
def a_dataset_that_counts(run):
    fit(run, run.loader(Counting()))


@way()
def a_dataset_that_counts_with_a_worker(run):
    fit(run, run.loader(Counting(), num_workers=1), max_epochs=1)


class Drawing(Map):
    def __init__(self):
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)
        self.python, self.old = random.Random(0), np.random.RandomState(0)

    def __getitem__(self, index):
        x, y = item(index)
        noise = self.numpy.random() + torch.rand(1, generator=self.torch) + self.python.random() + self.old.rand()
        return x + noise, y


@way()
def a_dataset_with_generators_of_its_own(run):
    fit(run, run.loader(Drawing()))


@way()
def generators_in_a_worker_that_persists(run):
    fit(run, run.loader(Drawing(), num_workers=1, persistent_workers=True), run.loader())


@way()
def noise_from_the_global_generators(run):
    class Noisy(Map):
        def __getitem__(self, index):
            x, y = item(index)
            return x + torch.rand(1) + random.random() + np.random.rand(), y

    fit(run, run.loader(Noisy(), shuffle=True))


@way()
def a_transform_that_closes_over_its_generator(run):
    rng, drawn = np.random.default_rng(0), []

    def transform(x):
        drawn.append(rng.random())
        return x + drawn[-1]

    class Transformed(Map):
        def __init__(self):
            self.transform = transform

        def __getitem__(self, index):
            x, y = item(index)
            return self.transform(x), y

    fit(run, run.loader(Transformed()))


@way()
def a_collate_function_that_mixes_and_draws(run):
    rng = np.random.default_rng(0)

    def mixup(items):
        x, y = torch.utils.data.default_collate(items)
        weight = rng.beta(0.2, 0.2)
        return (weight * x + (1 - weight) * x.flip(0)).float(), y

    fit(run, run.loader(collate_fn=mixup, shuffle=True))


@way()
def items_that_are_fetched_together(run):
    class Together(Map):
        calls = 0

        def __getitems__(self, indices):
            self.calls += 1
            return [item(index) for index in indices]

    fit(run, run.loader(Together()))


@way()
def a_dataset_that_makes_the_batches(run):
    class Batches(Map):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            return torch.utils.data.default_collate([item(BATCH * number + row) for row in range(BATCH)])

    fit(run, DataLoader(Batches(), batch_size=None))


@way()
def a_file_that_is_opened_when_first_asked(run):
    path = run.folder.parent / "rows"
    path.write_bytes(b"".join(item(index)[0].numpy().tobytes() for index in range(N)))

    class Filed(Map):
        file = None

        def __getitem__(self, index):
            self.file = self.file or path.open("rb")
            self.file.seek(4 * WIDTH * index)
            return torch.from_numpy(np.frombuffer(self.file.read(4 * WIDTH), np.float32).copy()), index % 2

    parts = random_split(Filed(), [12, 8])
    fit(run, *[run.loader(part, 4) for part in parts])


@way()
def an_archive_read_on_by_a_worker(run):
    path = run.folder.parent / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(N):
            archive.writestr(str(index), item(index)[0].numpy().tobytes())

    class Zipped(Map):
        archive = None

        def __getitem__(self, index):
            self.archive = self.archive or zipfile.ZipFile(path)
            return torch.from_numpy(np.frombuffer(self.archive.read(str(index)), np.float32).copy()), index % 2

    data = Zipped()
    fit(run, run.loader(data, num_workers=1), run.loader(data), max_epochs=1)


@way()
def an_array_on_disk_that_is_written_to(run):
    class Mapped(Map):
        def __init__(self, folder):
            self.rows = np.memmap(folder / "array", np.float32, "w+", shape=(N, WIDTH))

        def __getitem__(self, index):
            self.rows[index] += item(index)[0].numpy() + 0.1
            return torch.from_numpy(self.rows[index].copy()), index % 2

    fit(run, run.loader(Mapped(run.folder.parent)))


@way()
def a_database(run):
    class Stored(Map):
        def __init__(self):
            self.base = sqlite3.connect(":memory:")
            self.base.execute("create table items (x real)")
            self.base.executemany("insert into items values (?)", [(index / N,) for index in range(N)])

        def __getitem__(self, index):
            self.base.execute("update items set x = x + 0.01 where rowid = ?", (index + 1,))
            (x,) = self.base.execute("select x from items where rowid = ?", (index + 1,)).fetchone()
            return torch.full((WIDTH,), x), index % 2

    fit(run, run.loader(Stored()))


@way()
def a_dataset_that_keeps_what_it_has_read(run):
    class Cached(Map):
        def __init__(self):
            self.cache, self.rng = {}, np.random.default_rng(0)

        def __getitem__(self, index):
            if index not in self.cache:
                self.cache[index] = item(index)[0] + self.rng.random()
            return self.cache[index].float(), index % 2

    fit(run, run.loader(Cached(), shuffle=True))


@way()
def a_function_that_caches(run):
    @functools.lru_cache(maxsize=7)
    def load(index):
        return item(index)[0] + load.cache_info().misses

    class Cached(Map):
        def __init__(self):
            self.load = load

        def __getitem__(self, index):
            return self.load(index), index % 2

    fit(run, run.loader(Cached()))


@way()
def items_that_are_used_up(run):
    class Popping(Map):
        def __init__(self):
            self.left = list(range(1000))

        def __getitem__(self, index):
            return item(self.left.pop() % N)

    fit(run, run.loader(Popping()))


@way()
def a_curriculum_that_a_callback_moves_on(run):
    class Growing(Map):
        size = 10

        def __len__(self):
            return self.size

    class Grow(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.train_dataloader.dataset.size += 5

    run.fit(None, run.loader(Growing()), run.loader(), callbacks=[Grow()], watch=BOTH,
            reload_dataloaders_every_n_epochs=1)  # fmt: skip


class Stream(IterableDataset):
    """Starts anew each time, with noise of its own, or goes on where it was left."""

    def __init__(self, n=N, *, anew=True):
        self.n, self.rng, self.left = n, np.random.default_rng(0), None if anew else iter(range(n))

    def __iter__(self):
        for index in range(self.n) if self.left is None else self.left:
            yield item(index % N)[0] + self.rng.random(), index % 2


@way()
def a_stream_that_starts_anew(run):
    fit(run, run.loader(Stream()))


@way()
def a_stream_that_goes_on(run):
    fit(run, run.loader(Stream(1000, anew=False)), limit_train_batches=4, limit_val_batches=2)


@way()
def a_stream_that_ends(run):
    fit(run, run.loader(Stream(60, anew=False)))


@way()
def a_stream_with_a_worker_that_persists(run):
    streams = [run.loader(Stream(), num_workers=1, persistent_workers=True) for _ in range(2)]
    fit(run, *streams, limit_train_batches=2)


@way()
def streams_one_after_the_other(run):
    class Finite(Stream):
        def __len__(self):
            return self.n

    fit(run, run.loader(ChainDataset([Finite(10), Finite(10)])))


@way()
def a_buffer_that_shuffles_a_stream(run):
    class Shuffled(IterableDataset):
        def __init__(self):
            self.source, self.buffer = Stream(1000, anew=False), []

        def __iter__(self):
            for one in self.source:
                self.buffer.append(one)
                if len(self.buffer) > 6:
                    yield self.buffer.pop(random.randrange(6))

    fit(run, run.loader(Shuffled()), limit_train_batches=4, limit_val_batches=2)


@way()
def lines_read_on_in_an_open_file(run):
    path = run.folder.parent / "lines"
    path.write_text("".join(f"{index % N}\n" for index in range(4000)))

    class Lines(IterableDataset):
        def __init__(self):
            self.file = path.open()

        def __iter__(self):
            for line in self.file:
                yield item(int(line))

    fit(run, run.loader(Lines()), run.loader(Lines()), limit_train_batches=4, limit_val_batches=2)


@way()
def data_joined_of_several(run):
    fit(run, run.loader(ConcatDataset([Counting(), Drawing()]), shuffle=True))


@way()
def a_loader_with_an_iteration_of_its_own(run):
    class Own(DataLoader):
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            for x, y in super().__iter__():
                yield x + self.rounds, y

    fit(run, Own(Map(), BATCH, shuffle=True))


class Batches:
    """A loader that is none of torch's, with a state."""

    def __init__(self):
        self.rounds, self.rng = 0, np.random.default_rng(0)

    def __iter__(self):
        self.rounds += 1
        for start in range(0, N, BATCH):
            x, y = torch.utils.data.default_collate([item(start + row) for row in range(BATCH)])
            yield x + float(self.rng.random()), y


@way()
def a_loader_that_is_none_of_torchs(run):
    fit(run, Batches())


@way()
def a_loader_that_reads_ahead_in_a_thread(run):
    class Ahead:
        def __init__(self):
            self.made = 0

        def __iter__(self):
            waiting = queue.Queue(2)

            def fill():
                for batch in Batches():
                    self.made += 1
                    waiting.put(batch)
                waiting.put(None)

            thread = threading.Thread(target=fill, daemon=True)
            thread.start()
            yield from iter(waiting.get, None)
            thread.join()

    fit(run, Ahead())


@way()
def a_loader_with_a_pool_of_threads(run):
    class Pooled:
        def __init__(self):
            self.pool = ThreadPoolExecutor(1)
            self.calls = 0

        def load(self, start):
            self.calls += 1
            return torch.utils.data.default_collate([item(start + row) for row in range(BATCH)])

        def __iter__(self):
            return self.pool.map(self.load, range(0, N, BATCH))

    loader = Pooled()
    list(loader)  # its threads are there before the run
    loader_val = run.loader()
    run.fit(None, loader, loader_val)


@way()
def several_loaders_to_train_on(run):
    class Both(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx) + self.loss(batch["b"])

    loaders = CombinedLoader({"a": run.loader(Drawing()), "b": run.loader(Counting())}, "max_size_cycle")
    run.fit(Both(), loaders, run.loader(), watch=BOTH)


@way()
def several_loaders_to_validate_on(run):
    fit(run, run.loader(Drawing()), [run.loader(Counting()), run.loader(Stream())])


@way()
def batches_of_named_parts(run):
    class Named(Map):
        def __getitem__(self, index):
            x, y = item(index)
            return {"x": x, "y": y, "name": str(index)}

    class OfNamed(Net):
        def loss(self, batch):
            return super().loss((batch["x"], batch["y"]))

    fit(run, run.loader(Named(), shuffle=True), net=OfNamed(), watch={"forward_func": lambda m, x: m(x["x"])})


class Module(L.LightningDataModule):
    """Makes its data when set up, splits them by chance, and counts."""

    def __init__(self):
        super().__init__()
        self.loaded, self.hooked = [], 0

    def setup(self, stage):
        self.train, self.val = random_split(Drawing(), [12, 8])

    def train_dataloader(self):
        self.loaded.append("train")
        return DataLoader(self.train, 4, shuffle=True)

    def val_dataloader(self):
        self.loaded.append("val")
        return DataLoader(self.val, 4)

    def state_dict(self):
        return {"hooked": self.hooked}


@way()
def a_data_module(run):
    run.fit(None, Module(), watch=BOTH)


@way()
def a_data_module_that_loads_anew_each_epoch(run):
    run.fit(None, Module(), watch=BOTH, reload_dataloaders_every_n_epochs=1)


@way()
def batches_that_hooks_change_with_noise(run):
    class Hooked(Module):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            self.hooked += 1
            return [batch[0] * 2, batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + torch.rand(len(batch[0]), 1) + random.random(), batch[1]]

    run.fit(None, Hooked(), watch=BOTH)


@way()
def no_data_to_validate_on(run):
    run.fit(None, run.loader(Drawing(), shuffle=True))


@way()
def samples_that_are_given(run):
    from interaction_monitor import Probe

    probe = Probe(torch.rand(3, WIDTH), torch.arange(3) % 2)
    run.fit(None, run.loader(Drawing()), run.loader(Counting()), watch={"probe": probe})
    run.left.append(probe)


@way()
def tensors_as_data(run):
    data = TensorDataset(torch.stack([item(index)[0] for index in range(N)]), torch.arange(N) % 2)
    fit(run, run.loader(data, shuffle=True), run.loader(data))
    run.left.append(data.tensors)


@way()
def a_state_kept_in_the_class_of_the_data(run):
    class Shared(Map):
        seen: list[int] = []  # noqa: RUF012  # the class's, which is what is tested

        def __getitem__(self, index):
            Shared.seen.append(index)
            x, y = item(index)
            return x + len(Shared.seen) % 5, y

    fit(run, run.loader(Shared()))


@way()
def a_queue_that_a_thread_fills(run):
    class Queued(IterableDataset):
        def __init__(self):
            self.queue = queue.Queue()
            for index in range(200):
                self.queue.put(index % N)

        def __iter__(self):
            while True:
                yield item(self.queue.get())

    data = Queued()
    fit(run, run.loader(data), run.loader(), limit_train_batches=4)
    return data.queue.qsize()


@way()
def augmentation_by_another_dataset(run):
    class Wrapped(Dataset):
        def __init__(self, inner):
            self.inner, self.calls = inner, 0

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, index):
            self.calls += 1
            other, _ = self.inner[random.randrange(len(self.inner))]
            x, y = self.inner[index]
            return (x + 0.1 * other).float(), y

    fit(run, run.loader(Wrapped(Drawing()), shuffle=True))
