"""Training twins: by the settings, modes and frozen parts that the run has, and without a trace in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import some
from interaction_monitor.batches import BatchLosses, halves
from interaction_monitor.distributed import Ranks
from interaction_monitor.loading import size_of
from interaction_monitor.reference.sources import Loss
from interaction_monitor.state import Kept, evaluating, preserved_rng

COSTS = (
    "two twins are trained in step, each on its half of every batch: training takes about 2.3 times as long, up to 3 "
    "times for small networks, and a measurement 3 times"
)
_LOOKED_AT = 2  # steps: what a first one sets up is not what each changes, and a second shows it
_ENOUGH = 8  # samples of a batch, from which a half of a single one is left out, as normalisation may fail on it


class TwinTraining:
    """Both twins and their optimizers.

    Args:
        networks: both, on the device where they are trained.
        optimizers: those of each.
        loss: (network, batch) -> loss; None where a batch is to be left out.
        seed: of what they draw.
        ranks: the processes that train together; their gradients are averaged.

    Attributes:
        failure: why they are trained no longer; None while they are.

    Examples:
        >>> networks = [nn.Linear(2, 2), nn.Linear(2, 2)]
        >>> optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]
        >>> training = TwinTraining(networks, [[each] for each in optimizers], lambda net, x: net(x).square().mean())
        >>> before = networks[0](torch.ones(1, 2)).square().mean()
        >>> for _ in range(20):
        ...     training.step(torch.randn(8, 2))
        >>> bool(networks[0](torch.ones(1, 2)).square().mean() < before), training.steps
        (True, 20)
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        optimizers: Sequence[Sequence[Optimizer]],
        loss: Loss,
        *,
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.networks = list(networks)
        self.optimizers = [list(of_network) for of_network in optimizers]
        for network, of_network in zip(self.networks, self.optimizers, strict=True):
            held = (each for made in of_network for group in made.param_groups for each in group["params"])
            if not {id(each) for each in network.parameters()}.issuperset(map(id, held)):
                raise ValueError(
                    "an optimizer of the twins holds parameters that are not the twin's; let it take self.parameters() "
                    "or give Twins(optimizer=lambda network: ...)"
                )
            for made in of_network:
                closure = inspect.signature(type(made).step).parameters.get("closure")
                if closure is not None and closure.default is closure.empty:
                    raise ValueError(
                        f"{type(made).__name__} steps by a closure, which twins do not have; give "
                        "Twins(optimizer=lambda network: ...) another optimizer, or another reference"
                    )
        self.loss = loss
        self.seed = seed
        self.ranks = ranks or Ranks()
        self.steps = 0
        self.failure: str | None = None
        self._unseen: BatchLosses | None = BatchLosses()  # None where a network has no loss in evaluation mode

    def step(
        self,
        batch: Any,
        *,
        beside: nn.Module | None = None,
        like: Sequence[Optimizer] = (),
        accumulate: int = 1,
        update: bool = True,
        clip: Callable[[nn.Module], None] | None = None,
    ) -> None:
        """Train each twin on its half of a batch; the batch and the random states stay as they are.

        Args:
            batch: of the run.
            beside: the run's network, whose modes and frozen parts they take over; what it uses is watched at first.
            like: the run's optimizers, whose learning rates and other settings are taken over.
            accumulate: so many batches make a step.
            update: whether the optimizers step after this batch.
            clip: clips the gradients of a network before they step.

        Raises:
            Exception: whatever the training of a twin raises, or a ValueError if they change what the run uses; they
                are not trained any more then.
        """
        if self.failure is not None:
            return
        try:
            with nullcontext() if beside is None else self._apart(beside, like):
                parts = halves(batch)
                size = sum(map(size_of, parts))
                for number, half in enumerate(parts):
                    self._look(1 - number, half)
                for number, half in enumerate(parts):
                    with preserved_rng((self.seed + 2 * self.steps + number) * 0x9E3779B1 % 2**32), torch.enable_grad():
                        self._learn(number, half, accumulate, of=size)
                        if update:
                            self._update(number, like, clip)
            self.steps += 1
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            raise

    @contextmanager
    def _apart(self, run: nn.Module, like: Sequence[Optimizer]) -> Iterator[None]:
        for network, optimizers in zip(self.networks, self.optimizers, strict=True):
            mirror(network, run)
            follow(optimizers, like, network, run)
        kept = Kept(run) if self.steps < _LOOKED_AT else None
        try:
            yield
        finally:
            changed = kept.put_back() if kept else []
        if changed:
            raise ValueError(
                f"a step of theirs changes {some(changed)}, which the run uses too. Keep it in the module, "
                "self.x = ..., or give Twins(loss=..., optimizer=...)"
            )

    def _look(self, number: int, half: Any) -> None:
        """Take the loss of a twin on samples that it does not learn from, in evaluation mode."""
        if self._unseen is None or not size_of(half):
            return
        try:
            with preserved_rng(self.seed), torch.no_grad(), evaluating(self.networks[number]):
                loss = self.loss(self.networks[number], half)
            if loss is not None:
                self._unseen.add(loss, half)
        except Exception:  # some networks have no loss in evaluation mode, and the twins are of use without it
            self._unseen = None

    def unseen_loss(self) -> float | None:
        """Give the mean loss of the twins on training samples that they do not learn from, since `forget_unseen`.

        Each half of a batch is shown to the other twin, with its labels as trained on, before both learn from their
        own: a validation loss of networks like the run's, without a sample set aside.

        Returns:
            The mean over the samples of all processes; None where there was none.
        """
        return (self._unseen or BatchLosses()).mean(self.ranks)

    def forget_unseen(self) -> None:
        """Begin to average that loss anew, as after a measurement."""
        if self._unseen is not None:
            self._unseen.reset()

    def _learn(self, number: int, half: Any, accumulate: int, *, of: int) -> None:
        loss = None
        with self.ranks.together():
            if size_of(half) >= (2 if of >= _ENOUGH else 1):
                try:
                    loss = self.loss(self.networks[number], half)
                except Exception:
                    if of == 1 or size_of(half) > 1:  # else the run itself never has a batch like this
                        raise
            # Where there is nothing to learn in a half, all is ignored say, the loss is NaN, and so would the twin be.
            if loss is not None and bool(loss.isfinite().all()):
                (loss / accumulate).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _update(self, number: int, like: Sequence[Optimizer], clip: Callable[[nn.Module], None] | None) -> None:
        network, optimizers = self.networks[number], self.optimizers[number]
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.ranks.average([parameter.grad for parameter in parameters], like=parameters)
        if any(parameter.grad is not None for parameter in parameters):
            if clip is not None:
                clip(network)
            take_over(optimizers, like)
            for optimizer in optimizers:
                optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizers as plain values and tensors, and how many batches there have been."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [[optimizer.state_dict() for optimizer in of_network] for of_network in self.optimizers],
            "steps": self.steps,
            "failure": self.failure,
            "unseen": None if self._unseen is None else tuple(self._unseen.state_dict().values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: if it is of other networks or optimizers.
        """
        try:
            for network, weights in zip(self.networks, state["networks"], strict=True):
                network.load_state_dict(weights)
            for of_network, states in zip(self.optimizers, state["optimizers"], strict=True):
                for optimizer, known in zip(of_network, states, strict=True):
                    optimizer.load_state_dict(known)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the twins in the checkpoint are of another kind than Twins(factory=...): {error}"
            ) from error
        self.steps = int(state["steps"])
        self.failure = state["failure"]
        unseen = state.get("unseen", (0.0, 0))  # earlier versions did not look
        self._unseen = None if unseen is None else BatchLosses()
        if self._unseen is not None:
            self._unseen.load_state_dict(dict(zip(("sum", "samples"), unseen, strict=True)))


def take_over(optimizers: Iterable[Optimizer], like: Iterable[Optimizer]) -> None:
    """Give optimizers the learning rates and other settings that others have now, group by group.

    Examples:
        >>> mine, theirs = (torch.optim.SGD([torch.zeros(1)], lr=lr) for lr in (0.1, 0.5))
        >>> take_over([mine], [theirs])
        >>> mine.param_groups[0]["lr"]
        0.5
    """
    for optimizer, other in zip(optimizers, like, strict=False):
        for group, theirs in zip(optimizer.param_groups, other.param_groups, strict=False):
            for name, value in theirs.items():
                if name != "params" and name in group:
                    group[name] = value.clone() if isinstance(value, Tensor) else value


def follow(optimizers: Iterable[Optimizer], like: Iterable[Optimizer], network: nn.Module, model: nn.Module) -> None:
    """Add the groups that the optimizers of a model have got since, as where frozen parts thaw, to those of a network.

    Examples:
        >>> model, network = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> theirs, mine = (torch.optim.SGD([each.bias], lr=0.1) for each in (model, network))
        >>> theirs.add_param_group({"params": [model.weight], "lr": 0.01})
        >>> follow([mine], [theirs], network, model)
        >>> mine.param_groups[1]["params"][0] is network.weight, mine.param_groups[1]["lr"]
        (True, 0.01)
    """
    for optimizer, other in zip(optimizers, like, strict=False):
        if added := other.param_groups[len(optimizer.param_groups) :]:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            own = {name: parameter for name, parameter in network.named_parameters() if id(parameter) not in held}
            names = {id(parameter): name for name, parameter in model.named_parameters() if name in own}
            for group in added:
                found = [own[names[id(parameter)]] for parameter in group["params"] if id(parameter) in names]
                optimizer.add_param_group({**group, "params": found})


def mirror(network: nn.Module, model: nn.Module) -> None:
    """Put each part of a network into the mode of the same part of the model, and freeze what is frozen there."""
    theirs = dict(model.named_modules())
    for name, module in network.named_modules():
        module.training = theirs[name].training if name in theirs else model.training
    parameters = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        if name in parameters and not nn.parameter.is_lazy(parameter):
            parameter.requires_grad_(parameters[name].requires_grad)


def optimizer_like(optimizer: Optimizer, model: nn.Module, network: nn.Module) -> Optimizer:
    """Make an optimizer of the same kind for a network of the same kind, with the same parameters in the same groups.

    Examples:
        >>> model, network = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
        >>> made = optimizer_like(torch.optim.AdamW(groups, lr=0.5), model, network)
        >>> made.param_groups[0]["params"][0] is network.weight, made.param_groups[0]["weight_decay"]
        (True, 0.1)
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in names for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError("the run's optimizer holds other parameters than the model, as DeepSpeed's does")
    mine = dict(network.named_parameters())
    groups = [
        {
            **{key: value for key, value in group.items() if key in optimizer.defaults},
            "params": [mine[names[id(parameter)]] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return type(optimizer)(groups)  # type: ignore[call-arg]  # each kind has its own arguments
