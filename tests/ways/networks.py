"""Networks: whatever a forward, a hook or a module may hold and change."""

import copy
import random
import types
from collections import Counter, OrderedDict, deque

import numpy as np
import torch
import torchmetrics
from torch import nn
from torch.nn.utils import parametrizations, prune
from ways.run import WIDTH, Map, Net, item, way

from interaction_monitor.players import FeaturePatches, ImagePatches, TokenPatches


def fit(run, net, *data, **options):
    """Train a network that is measured at each epoch, at its input."""
    return run.fit(net, *data, **options)


class Layered(Net):
    """Layers, and after them what a subclass does to their output in `after`."""

    def forward(self, x):
        # A number that is added to both logits would change no loss.
        return self.after(self.layers(x)) * torch.tensor([1.0, 2.0])

    def after(self, z):
        return z


@way()
def batch_norm_and_dropout(run):
    fit(run, Net(nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))))


@way(refused="keep running statistics")
def batch_norm_without_running_statistics(run):
    fit(run, Net(nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2))))


@way()
def instance_norm_with_running_statistics(run):
    layers = nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Linear(WIDTH, 2)
    )
    fit(run, Net(layers))


@way()
def dropout_that_is_always_on(run):
    class Always(Layered):
        def after(self, z):
            return nn.functional.dropout(z, 0.3)

    fit(run, Always())


@way()
def spectral_norm(run):
    fit(run, Net(nn.Sequential(parametrizations.spectral_norm(nn.Linear(WIDTH, 6)), nn.ReLU(), nn.Linear(6, 2))))


@way()
def spectral_norm_of_old(run):
    fit(run, Net(nn.Sequential(nn.utils.spectral_norm(nn.Linear(WIDTH, 6)), nn.ReLU(), nn.Linear(6, 2))))


@way()
def weight_norm(run):
    layers = [parametrizations.weight_norm(nn.Linear(WIDTH, 6)), nn.ReLU(), nn.utils.weight_norm(nn.Linear(6, 2))]
    fit(run, Net(nn.Sequential(*layers)))


@way()
def an_orthogonal_weight(run):
    fit(run, Net(nn.Sequential(parametrizations.orthogonal(nn.Linear(WIDTH, 6)), nn.Linear(6, 2))))


@way()
def pruned_weights(run):
    net = Net()
    prune.random_unstructured(net.layers[0], "weight", amount=0.3)
    fit(run, net)


@way()
def tied_and_partly_frozen(run):
    class Tied(Net):
        def __init__(self):
            super().__init__(
                nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
            )
            self.layers[2].weight = self.layers[0].weight
            self.layers[4].requires_grad_(False)

        def on_train_epoch_start(self):
            self.layers[1].eval()

    fit(run, Tied())


def stateful(name, **attributes):
    """Put a network among the ways whose `after` changes these attributes and adds what they hold."""

    def register(change):
        def train(run):
            net = Layered()
            for key, value in attributes.items():
                setattr(net, key, value())
            net.after = types.MethodType(change, net)
            fit(run, net)

        train.__name__ = name
        way()(train)
        return change

    return register


@stateful("a_mean_that_is_reassigned", mean=lambda: torch.zeros(2))
def _(self, z):
    self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
    return z - self.mean


@stateful("a_mean_that_is_changed_in_place", mean=lambda: torch.zeros(2))
def _(self, z):
    self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
    return z - self.mean


@stateful("a_tensor_that_grows", memory=lambda: torch.zeros(0, 2))
def _(self, z):
    self.memory = torch.cat([self.memory, z.detach()])[-12:]
    return z - self.memory.mean(0)


@stateful("a_tensor_that_is_resized", memory=lambda: torch.zeros(1))
def _(self, z):
    self.memory.resize_(len(z) + 1).fill_(self.memory[0].item() + 1)
    return z + self.memory[-1] % 3


@stateful("a_list_of_activations", seen=list)
def _(self, z):
    self.seen.append(z.detach())
    return z + 0.1 * self.seen[max(0, len(self.seen) - 3)].mean(0)


@stateful("a_dict_by_shape", cache=dict)
def _(self, z):
    count = self.cache.setdefault(tuple(z.shape), [0])
    count[0] += 1
    return z * (1 + count[0] % 3)


@stateful("a_deque", last=lambda: deque([1.0], maxlen=4))
def _(self, z):
    self.last.append(z.detach().mean().item())
    return z + sum(self.last)


@stateful("a_counter_and_a_set", counter=Counter, kinds=set, order=lambda: OrderedDict(a=1, b=2))
def _(self, z):
    self.counter["calls"] += 1
    self.kinds.add(self.counter["calls"] % 7)
    self.order.move_to_end("a" if self.counter["calls"] % 2 else "b")
    return z * (len(self.kinds) + ("b" in list(self.order)[:1]))


@stateful("an_array", array=lambda: np.zeros(2))
def _(self, z):
    self.array += z.detach().numpy().mean(0)
    return z + torch.from_numpy(self.array).float()


def generators():
    return torch.Generator().manual_seed(0), np.random.default_rng(0), random.Random(0), np.random.RandomState(0)


@stateful("generators_of_torch_numpy_and_python", generators=generators)
def _(self, z):
    torch_, numpy, python, old = self.generators
    return z + torch.rand(2, generator=torch_) + numpy.random() + python.random() + old.rand()


@stateful("the_global_generators")
def _(self, z):
    return z + 0.1 * torch.rand(2) + random.random() + np.random.rand()


@stateful("a_helper_object", helper=lambda: types.SimpleNamespace(total=0, inner=types.SimpleNamespace(seen=[])))
def _(self, z):
    self.helper.total += 1
    self.helper.inner.seen.append(self.helper.total)
    return z + len(self.helper.inner.seen) % 4


@stateful("an_attribute_that_is_there_from_the_first_call")
def _(self, z):
    self.late = getattr(self, "late", 0) + 1
    return z + self.late % 3


@stateful("an_attribute_that_is_deleted", once=lambda: 1.0)
def _(self, z):
    if hasattr(self, "once"):
        del self.once
        return z + 1
    return z


@stateful("a_buffer_that_is_replaced_and_one_that_appears")
def _(self, z):
    self.register_buffer("calls", getattr(self, "calls", torch.zeros(())) + 1)
    return z + self.calls % 3


@stateful("weights_that_are_clipped")
def _(self, z):
    for parameter in self.parameters():
        parameter.data.clamp_(-0.4, 0.4)
    return z


@stateful("a_module_that_is_added_when_called")
def _(self, z):
    if not hasattr(self, "extra"):
        self.extra = nn.Linear(2, 2)
    return self.extra(z)


@stateful("a_tensor_in_float64", total=lambda: torch.zeros(2, dtype=torch.float64))
def _(self, z):
    self.total = self.total + z.detach().double().sum(0)
    return z + self.total.float() / 100


@stateful("a_schedule_by_number_of_calls", step=lambda: torch.zeros((), dtype=torch.long))
def _(self, z):
    self.step += 1
    return z * (1 - 0.5 ** self.step.item())


@stateful("an_iterator_of_python", counts=lambda: iter([0]))
def _(self, z):
    return z + next(self.counts, 0)


@way()
def attributes_of_the_class_and_globals(run):
    counts = Counter()

    class Shared(Layered):
        calls, seen = 0, []

        def after(self, z):
            Shared.calls += 1
            self.seen.append(Shared.calls)
            counts["forward"] += 1
            return z + len(self.seen) % 3 + Shared.calls % 2 + counts["forward"] % 5

    fit(run, Shared())
    return counts, Shared.calls


@way()
def a_hidden_state_that_goes_on(run):
    class Recurrent(Net):
        def __init__(self):
            super().__init__(nn.Linear(6, 2))
            self.cell, self.hidden = nn.GRUCell(WIDTH, 6), None

        def forward(self, x):
            before = self.hidden if self.hidden is not None and len(self.hidden) == len(x) else None
            hidden = self.cell(x, before)
            self.hidden = hidden.detach()
            return self.layers(hidden)

    fit(run, Recurrent())


@way()
def a_graph_that_is_kept_for_the_next_batch(run):
    class Kept(Layered):
        last = None

        def after(self, z):
            self.last = z
            return z

        def on_train_batch_end(self, outputs, batch, batch_idx):
            assert not self.training or self.last.grad_fn is not None

    fit(run, Kept())


@way()
def a_copy_by_exponential_averages(run):
    class Averaged(Net):
        def __init__(self):
            super().__init__()
            self.teacher = copy.deepcopy(self.layers).requires_grad_(False)

        def forward(self, x):
            for mean, now in zip(self.teacher.parameters(), self.layers.parameters(), strict=True):
                mean.data.lerp_(now.data, 0.1)
            return self.layers(x) + self.teacher(x)

    fit(run, Averaged())


@way()
def a_copy_outside_of_the_modules(run):
    class Averaged(Net):
        def __init__(self):
            super().__init__()
            self.teacher = [copy.deepcopy(self.layers)]

        def forward(self, x):
            with torch.no_grad():
                for mean, now in zip(self.teacher[0].parameters(), self.layers.parameters(), strict=True):
                    mean.lerp_(now, 0.1)
            return self.layers(x) + self.teacher[0](x).detach()

    fit(run, Averaged())


@way()
def a_queue_of_embeddings(run):
    class Contrast(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("queue", torch.randn(8, 2))
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))

        def forward(self, x):
            z = self.layers(x)
            near = z @ self.queue.clone().T
            place = int(self.place)
            self.queue[place] = z[0].detach()
            self.place[0] = (place + 1) % 8
            return z + near.softmax(1) @ self.queue.clone()

    fit(run, Contrast())


@way()
def a_codebook_that_learns_by_averages(run):
    class Quantised(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.randn(4, 2))
            self.register_buffer("sizes", torch.ones(4))

        def forward(self, x):
            z = self.layers(x)
            nearest = torch.cdist(z.detach(), self.codes).argmin(1)
            hot = nn.functional.one_hot(nearest, 4).float()
            self.sizes.mul_(0.9).add_(0.1 * hot.sum(0))
            self.codes = 0.9 * self.codes + 0.1 * hot.T @ z.detach() / self.sizes[:, None]
            return z + self.codes[nearest]

    fit(run, Quantised())


@way()
def observers_for_quantisation(run):
    class Observed(Net):
        def __init__(self):
            super().__init__()
            self.fake = torch.ao.quantization.FakeQuantize(torch.ao.quantization.MovingAverageMinMaxObserver)

        def forward(self, x):
            return self.layers(self.fake(x))

    fit(run, Observed())


@way()
def metrics_in_forward(run):
    class Metered(Layered):
        def __init__(self):
            super().__init__()
            self.mean, self.collection = (
                torchmetrics.MeanMetric(),
                torchmetrics.MetricCollection([torchmetrics.MaxMetric()]),
            )
            self.kept = {"running": torchmetrics.SumMetric()}

        def after(self, z):
            self.mean.update(z.detach())
            self.collection(z.detach())
            return z + self.mean.compute() + 0.1 * self.kept["running"](z.detach()).item()

    fit(run, Metered())


@way()
def metrics_of_training_and_validation(run):
    class Metered(Net):
        def __init__(self):
            super().__init__()
            self.accuracy = nn.ModuleDict({s: torchmetrics.Accuracy("multiclass", num_classes=2) for s in ("t", "v")})

        def training_step(self, batch, batch_idx):
            self.accuracy["t"](self(batch[0]), batch[1])
            self.log("accuracy", self.accuracy["t"], on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            self.accuracy["v"].update(self(batch[0]), batch[1])
            super().validation_step(batch, batch_idx)

        def on_validation_epoch_end(self):
            self.log("val_accuracy", self.accuracy["v"].compute())
            self.accuracy["v"].reset()

    fit(run, Metered(), watch={"every_n_train_steps": 3})


@way()
def logging_in_forward(run):
    class Logs(Layered):
        def after(self, z):
            self.log("norm", z.norm(), on_step=True, on_epoch=True)
            self.log_dict({"largest": z.max(), "smallest": z.min()})
            self.logger.log_metrics({"own": z.mean().item()})
            self.print("called")
            return z

    fit(run, Logs())


@way()
def hooks_that_log_and_count(run):
    class Hooked(Layered):
        def __init__(self):
            super().__init__()
            self.norms = []
            self.layers[0].register_forward_hook(self.watch)
            self.layers[2].register_forward_pre_hook(lambda module, args: self.norms.append(args[0].norm().item()))
            self.layers[2].register_full_backward_hook(lambda *_: self.norms.append(-1.0))

        def watch(self, module, args, output):
            self.log("inner", output.mean())
            module.calls = getattr(module, "calls", 0) + 1
            return output + module.calls % 3

    fit(run, Hooked())


@way()
def hooks_on_all_modules(run):
    seen = Counter()
    hook = nn.modules.module.register_module_forward_hook(lambda m, a, o: seen.update([type(m).__name__]))
    try:
        fit(run, Net())
    finally:
        hook.remove()


@way()
def an_input_that_is_changed_in_place(run):
    class Spoiling(Net):
        def forward(self, x):
            x -= 0.5
            x /= 0.25
            return self.layers(x)

    fit(run, Spoiling())


class Pictures(Map):
    def __getitem__(self, index):
        x, y = item(index)
        return (x[:, None] * torch.arange(1, 9)[None]).reshape(2, 4, 4) / 4, y


def pictures(run, net, players, **options):
    fit(run, net, run.loader(Pictures(), shuffle=True), run.loader(Pictures()), watch={"players": players}, **options)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout2d(0.2), nn.Flatten(),
        nn.Linear(48, 2),
    )  # fmt: skip


@way()
def pictures_masked_at_the_input(run):
    pictures(run, Net(convolutional()), ImagePatches(grid=2, margin=0, n_players=3))


@way()
def pictures_masked_at_a_layer(run):
    pictures(run, Net(convolutional()), FeaturePatches(layer="layers.2", grid=2, margin=0, n_players=3))


@way()
def a_residual_network_with_stochastic_depth(run):
    class Deep(Net):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
            self.stem, self.block = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.skipped = 0

        def forward(self, x):
            x = self.stem(x)
            if self.training and random.random() < 0.5:
                self.skipped += 1
                return self.layers(x)
            return self.layers(x + self.block(x))

    pictures(run, Deep(), FeaturePatches(layer="stem", grid=2, margin=0, n_players=3))


@way()
def a_transformer(run):
    class Tokens(Net):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(32, 2)))
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)

        def forward(self, x):
            return self.layers(self.block(x.flatten(2).mT.reshape(-1, 4, 8)))

    pictures(run, Tokens(), TokenPatches(layer="block", grid=2, margin=0, plane=(2, 2), n_players=3))


@way()
def checkpointed_activations(run):
    class Saving(Net):
        def forward(self, x):
            hidden = torch.utils.checkpoint.checkpoint(self.layers[0], x, use_reentrant=False)
            return self.layers[2](nn.functional.dropout(hidden.relu(), 0.3, self.training))

    fit(run, Saving())


@way()
def a_part_that_is_scripted(run):
    layers = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU())
    fit(run, Net(nn.Sequential(torch.jit.script(layers), nn.Linear(6, 2))))


@way()
def parts_that_are_compiled(run):
    net = Net(nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    net.layers.compile(backend="eager")
    fit(run, net, max_epochs=1)


@way()
def modules_that_initialise_themselves_when_called(run):
    class Late(Net):
        def __init__(self):
            super().__init__(nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)))

        def setup(self, stage):
            with torch.no_grad():
                self.layers(torch.zeros(2, WIDTH))

    fit(run, Late())


@way()
def weights_that_depend_on_the_data_at_first(run):
    class ActNorm(Net):
        def __init__(self):
            super().__init__()
            self.scale, self.ready = nn.Parameter(torch.ones(WIDTH)), False

        def forward(self, x):
            if not self.ready:
                self.scale.data.copy_(1 / (x.std(0) + 0.1))
                self.ready = True
            return self.layers(x * self.scale)

    fit(run, ActNorm(), num_sanity_val_steps=0)


@way()
def sparse_gradients(run):
    class Codes(Map):
        def __getitem__(self, index):
            return torch.tensor([index % 3, index % 5, index % 7]), index % 2

    class Embedded(Net):
        def __init__(self):
            super().__init__(nn.Linear(12, 2))
            self.embedding = nn.Embedding(7, 4, sparse=True, max_norm=1.0)

        def forward(self, codes):
            return self.layers(self.embedding(codes).flatten(1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    fit(run, Embedded(), run.loader(Codes(), shuffle=True), run.loader(Codes()))


@way()
def a_forward_that_takes_gradients(run):
    class Energy(Net):
        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.layers(x).sum(), x, create_graph=True)
            return self.layers(x + 0.1 * slope)

    fit(run, Energy(), inference_mode=False)


@way()
def gradients_left_by_a_forward(run):
    class Regularised(Layered):
        def after(self, z):
            if torch.is_grad_enabled():
                self.layers[0].weight.grad = None if self.layers[0].weight.grad is None else self.layers[0].weight.grad
            self.penalty = self.layers[0].weight.norm()
            return z

        def loss(self, batch):
            loss = super().loss(batch)
            return loss + 0.01 * self.penalty

    fit(run, Regularised(), accumulate_grad_batches=2)


@way()
def modes_that_are_set_by_the_forward(run):
    class Switching(Net):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)))

        def forward(self, x):
            self.layers[1].train(not self.layers[1].training and self.training)
            return self.layers(x)

        def train(self, mode=True):
            self.switched = getattr(self, "switched", 0) + 1
            return super().train(mode)

    fit(run, Switching())
