"""References that need no other data: two networks trained in step with the run, each on a half of its training set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import describe, refusing, some
from interaction_monitor.batches import BatchLosses, halves
from interaction_monitor.distributed import Ranks
from interaction_monitor.loading import size_of
from interaction_monitor.reference.twins_follow_run import follow, mirror, take_over
from interaction_monitor.state import Kept, evaluating, preserved_rng

COSTS = (
    "two twins are trained in step, each on its half of every batch: training takes about 2.3 times as long, up to 3 "
    "times for small networks, and a measurement 3 times"
)
_LOOKED_AT = 2  # steps: what a first one sets up is not what each changes, and a second shows it
_ENOUGH = 8  # samples of a batch, from which a half of a single one is left out
Loss = Callable[[nn.Module, Any], "Tensor | None"]


@dataclass(frozen=True)
class Twins:
    """Two networks like the run's, trained in step with it, each on a fixed half of its training samples.

    They take the place of finished references where there are none, and need no sample and no label beyond the training
    set. With them training takes about 2.3 times as long, since each learns from half of a batch and is
    shown the other half, up to 3 times for small networks; a measurement takes 3 times as long.

    By default an interaction counts only if both have it: each sample is known to one of the twins at most, so what
    both have cannot be learnt by heart from single samples. On a LeNet with 20% wrong labels this share sank from 0.69
    to 0.30, while the share that one of them has sank from 0.90 to 0.72.

    Args:
        factory: makes a network of the run's kind, untrained: a Lightning module's class, for example.
        loss: (network, batch) -> loss, for a training loop of one's own; None takes the Lightning module's own
            `training_step`, or the loss of the transformers Trainer (of its model where `compute_loss` is overridden).
        optimizer: network -> optimizer, likewise; None takes the module's own `configure_optimizers`, or an optimizer
            of the run's kind.
        at_least: how many of the two must have an interaction: 2, or 1.
        seed: decides their weights and what they draw.

    Raises:
        TypeError: if factory, loss or optimizer cannot be called.
        ValueError: if `at_least` is neither 1 nor 2.

    Examples:
        >>> Twins(lambda: nn.Linear(4, 2)).at_least
        2
    """

    factory: Callable[[], nn.Module]
    loss: Loss | None = None
    optimizer: Callable[[nn.Module], Optimizer] | None = None
    at_least: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("factory", "loss", "optimizer"):
            value = getattr(self, name)
            if isinstance(value, nn.Module) or not (callable(value) or (value is None and name != "factory")):
                shown = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
                raise TypeError(f"Twins({name}={shown}): give a function")
        if self.at_least not in (1, 2):
            raise ValueError(f"Twins(at_least={self.at_least!r}): give 2 or 1")

    def networks(self) -> list[nn.Module]:
        """Make both networks; the random states stay as they are."""
        made, fix = [], "give a function without arguments that makes an untrained network, lambda: MyModule(...) say"
        for number in range(2):
            with preserved_rng(self.seed + number + 1), refusing("Twins(factory=...)", fix):
                made.append(self.factory())
        if not all(isinstance(network, nn.Module) for network in made):
            raise TypeError(f"Twins(factory=...) must return a network, but returned {describe(made[0])}")
        if made[0] is made[1]:
            raise ValueError("Twins(factory=...) returned the same network twice; let it make a new one each time")
        return made


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
                # Normalisation over a batch fails on one sample, and few batches are so small that
                # both halves have one.
                size = sum(map(size_of, parts))
                least = 2 if size >= _ENOUGH else 1
                for number, half in enumerate(parts):
                    self._look(1 - number, half)
                for number, half in enumerate(parts):
                    with preserved_rng((self.seed + 2 * self.steps + number) * 0x9E3779B1 % 2**32), torch.enable_grad():
                        self._learn(number, half if size_of(half) >= least else None, accumulate, of=size)
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
        """Begin to average that loss anew, as behind a measurement."""
        if self._unseen is not None:
            self._unseen.reset()

    def _learn(self, number: int, half: Any, accumulate: int, *, of: int) -> None:
        loss = None
        with self.ranks.together():
            if half is not None:
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
