"""Ways beside those that anybody has reported: loaders, state and callers of kinds that the other files leave out."""

import array
import ctypes
import mmap
import subprocess
import sys
import tarfile
import threading
from io import BytesIO

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from ways.networks import Layered, fit
from ways.run import WIDTH, Map, N, Net, item, way


class OfFile(Dataset):
    """Opens its file when it is first asked."""

    def __init__(self, path, indices):
        self.path, self.indices, self.file = path, indices, None
        path.write_bytes(np.stack([item(index)[0].numpy() for index in indices]).astype("float32").tobytes())

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, place):
        if self.file is None:
            self.file = self.path.open("rb")
        self.file.seek(place * 4 * WIDTH)
        return torch.frombuffer(bytearray(self.file.read(4 * WIDTH)), dtype=torch.float32), self.indices[place] % 2


@way()
def files_joined_and_drawn_by_weight(run):
    run.folder.mkdir(exist_ok=True)
    parts = [OfFile(run.folder / f"part{start}", range(start, start + 5)) for start in range(0, N, 5)]
    data = ConcatDataset(parts)
    sampler = WeightedRandomSampler(torch.arange(1.0, N + 1), N)
    run.fit(Net(), run.loader(data, sampler=sampler, num_workers=1), run.loader(data))


class Stateful(DataLoader):
    """Knows where it is, and goes on from there."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.given, self.rounds = 0, 0

    def __iter__(self):
        self.rounds += 1
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self):
        return {"given": self.given, "rounds": self.rounds}

    def load_state_dict(self, state):
        self.given, self.rounds = state["given"], state["rounds"]


@way()
def a_loader_that_knows_where_it_is(run):
    loader, test = Stateful(Map(), 5, shuffle=True), Stateful(Map(), 5)
    run.fit(Net(), loader, test, watch={"n_train_samples": 3})
    return loader.state_dict(), test.state_dict()


class Shards(IterableDataset):
    """A pipeline of generators: shards that are opened one after the other, decoded, and shuffled in a buffer."""

    def __init__(self, paths):
        self.paths, self.rng, self.opened = paths, np.random.default_rng(0), 0

    def items(self):
        for path in self.paths:
            with tarfile.open(path) as shard:
                self.opened += 1
                for member in shard:
                    number = int(member.name)
                    yield torch.frombuffer(bytearray(shard.extractfile(member).read()), dtype=torch.float32), number % 2

    def shuffled(self, source):
        buffer = []
        for one in source:
            buffer.append(one)
            if len(buffer) == 6:
                yield buffer.pop(self.rng.integers(6))
        yield from buffer

    def __iter__(self):
        batch = []
        for one in self.shuffled(self.items()):
            batch.append(one)
            if len(batch) == 5:
                yield torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch])
                batch = []


@way()
def shards_through_a_pipeline_of_generators(run):
    run.folder.mkdir(exist_ok=True)
    paths = []
    for start in range(0, N, 10):
        paths.append(run.folder / f"{start}.tar")
        with tarfile.open(paths[-1], "w") as shard:
            for index in range(start, start + 10):
                content = item(index)[0].numpy().astype("float32").tobytes()
                info = tarfile.TarInfo(str(index))
                info.size = len(content)
                shard.addfile(info, BytesIO(content))
    run.fit(Net(), DataLoader(Shards(paths), batch_size=None), DataLoader(Shards(paths), batch_size=None))


@way()
def loaders_combined_by_hand(run):
    class Both(Net):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["one"], batch_idx) + super().training_step(batch["other"], batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx, dataloader_idx)

    train = {"one": run.loader(shuffle=True), "other": run.loader(batch_size=2, shuffle=True)}
    run.fit(
        Both(), CombinedLoader(train, "max_size_cycle"), CombinedLoader([run.loader(), run.loader()], "sequential"),
    )  # fmt: skip


class Piped(Dataset):
    """Asks a program for each item, as one that decodes videos."""

    def __init__(self):
        code = "import sys\nn = 0\nfor line in sys.stdin:\n    n += 1\n    print(int(line) + n * 1e-3, flush=True)"
        self.program = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.program.stdin.write(f"{index}\n")
        self.program.stdin.flush()
        return item(index)[0] + float(self.program.stdout.readline()), index % 2


@way(refused="give probe=Probe(inputs, targets)")
def a_program_at_the_other_end_of_a_pipe(run):
    data = Piped()
    try:
        run.fit(Net(), run.loader(shuffle=True), run.loader(data))
    finally:
        data.program.kill()


@way()
def memory_in_other_forms(run):
    class Counting(Layered):
        def __init__(self):
            super().__init__()
            self.array, self.number = array.array("i", [0]), ctypes.c_int(0)
            self.values = (ctypes.c_double * 3)()
            self.memory = mmap.mmap(-1, 8)
            self.local = threading.local()
            self.local.calls = 0

        def after(self, z):
            self.array[0] += 1
            self.array.append(1)
            self.number.value += 1
            self.values[1] += 0.5
            self.memory[0] = (self.memory[0] + 1) % 256
            self.local.calls += 1
            total = self.array[0] + self.number.value + self.values[1] + self.memory[0] + self.local.calls
            return z * (1 + (total + len(self.array)) % 7)

    net = Counting()
    fit(run, net)
    return net.array.tolist(), net.number.value, list(net.values), net.memory[0], net.local.calls


@way()
def a_functional_call_of_averaged_weights(run):
    class Averaged(Net):
        def __init__(self):
            super().__init__()
            self.average = {name: weight.detach().clone() for name, weight in self.layers.named_parameters()}

        def forward(self, x):
            for name, weight in self.layers.named_parameters():
                self.average[name].lerp_(weight.detach(), 0.1)
            taught = torch.func.functional_call(self.layers, self.average, (x,))
            return self.layers(x) + taught + torch.func.vmap(self.layers)(x)

    fit(run, Averaged())


@way()
def a_forward_without_gradients_beside_one_with(run):
    class Frozen(Layered):
        @torch.no_grad()
        def teach(self, x):
            self.taught = self.layers(x)
            return self.taught

        def forward(self, x):
            return super().forward(x) - 0.5 * self.teach(x)

    fit(run, Frozen())


@way()
def data_parallel(run):
    fit(run, Net(nn.DataParallel(nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))))


@way()
def a_checkpoint_that_holds_the_state_of_the_forward(run):
    class Saving(Layered):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def after(self, z):
            self.calls += 1
            return z * (1 + self.calls % 3)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["calls"] = self.calls

        def on_load_checkpoint(self, checkpoint):
            self.calls = checkpoint["calls"]

    trainer = fit(run, Saving(), max_epochs=1)
    trainer.save_checkpoint(run.folder / "saved.ckpt")
    fit(run, Saving(), ckpt_path=run.folder / "saved.ckpt", max_epochs=3)


@way()
def nothing_but_the_training(run):
    class Bare(Net):
        def configure_callbacks(self):
            return [L.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda *args: torch.rand(1))]

    run.fit(Bare(), barebones=True, logger=False, log_every_n_steps=None)


@way()
def a_step_that_calls_forward_itself(run):
    class Named(Map):
        def __getitem__(self, index):
            x, y = item(index)
            return {"row": x, "labels": y}

    class Past(Net):
        def __init__(self):
            super().__init__()
            self.register_forward_hook(lambda *_: self.losses.append("called"))

        def loss(self, batch):
            return nn.functional.cross_entropy(self.forward(batch["row"]), batch["labels"])

    run.fit(Past(), run.loader(Named(), shuffle=True), run.loader(Named()))
