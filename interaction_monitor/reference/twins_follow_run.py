"""What twins take from the run: their half of each batch, and its settings, modes and frozen parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import describe
from interaction_monitor.loading import rows_of
from interaction_monitor.probe import TARGET_KEYS

# So many numbers of a sample tell it from others.
_LOOKED_AT = 4096
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Entries of a batch that many samples have alike, or that change with the padding.
_NO_CONTENT = (*TARGET_KEYS, "token_type_ids", "position_ids", "cache_position")


def halves(batch: Any) -> tuple[Any, Any]:
    """Divide a batch in two by what its samples are, not by where they stand.

    A shuffled loader hands on the same samples in other batches each epoch, and each still goes to the same half,
    padded to whatever length. Where a dataset transforms its samples at random, a sample may change its half from epoch
    to epoch. What a sample is, the first tensor tells that has more than one axis, in which samples differ, and which
    its name in a dict does not call a mask or a target.

    Args:
        batch: a tensor, or tuples, lists and dicts of them; all with the samples along axis 0. Numbers, texts and None
            go to both halves, a list with one entry per sample is divided too.

    Returns:
        Two batches of the same kind, copies; one of them may be empty.

    Raises:
        TypeError: if there is no tensor in it, or something of another kind.
        ValueError: if its tensors have other numbers of samples.

    Examples:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> first, second = halves((x, torch.arange(6)))
        >>> sorted(first[1].tolist() + second[1].tolist())
        [0, 1, 2, 3, 4, 5]
        >>> again, _ = halves((x.flip(0), torch.arange(6).flip(0)))
        >>> sorted(again[1].tolist()) == sorted(first[1].tolist())
        True
    """
    named = [(name, tensor) for name, tensor in _tensors(batch) if tensor.ndim]
    if not named:
        raise TypeError(f"a batch that is to be divided between twins must hold tensors, but is {describe(batch)}")
    sizes = {len(tensor) for _, tensor in named}
    if len(sizes) > 1:
        raise ValueError(f"a batch cannot be divided between twins, as its tensors have {sorted(sizes)} samples")
    second = _sides_of(named).tolist()
    first, other = ([row for row, side in enumerate(second) if side == which] for which in (False, True))
    return rows_of(batch, first), rows_of(batch, other)


def _sides_of(named: Sequence[tuple[str, Tensor]]) -> Tensor:
    wide = [(name, tensor) for name, tensor in named if tensor.ndim > 1]
    content = [tensor for name, tensor in wide if name not in _NO_CONTENT and "mask" not in name]
    attended = dict(wide).get("attention_mask")
    found = [_without_padding(each, attended) for each in content or [tensor for _, tensor in wide or named]]
    first = _digests(found[0])
    # A prompt may be the same throughout. A batch of one sample does not tell, and mostly it is the first.
    told = (each for each in (first, *map(_digests, found[1:])) if (each != each[:1]).any())
    return _sides(next(told, first))


def _without_padding(samples: Tensor, attended: Tensor | None) -> Tensor:
    """Move what is attended to the front and set the rest to 0, so that no batch's length tells in it."""
    if attended is None or attended.ndim != 2 or samples.shape != attended.shape:
        return samples
    order = (attended == 0).byte().argsort(dim=1, stable=True)
    return samples.where(attended != 0, 0).gather(1, order)


def sides(samples: Tensor) -> Tensor:
    """Tell for each sample whether it is of the second half, by its content alone.

    Args:
        samples: (B, ...) of any dtype.

    Returns:
        (B,) bool: one for equal samples, in whatever batch, and as good as drawn for others.
    """
    return _sides(_digests(samples))


def _sides(digests: Tensor) -> Tensor:
    keys = (digests ^ (digests >> 29)) * 0x1CE4E5B9BF58476D
    return (keys >> 40) & 1 == 1


def _digests(samples: Tensor) -> Tensor:
    """Return (B,) int64, a number for each sample; of more numbers 0 behind the others it is the same."""
    samples = torch.view_as_real(samples) if samples.is_complex() else samples
    rows = samples.detach().flatten(1) if samples.ndim > 1 else samples.detach()[:, None]
    rows = rows[:, :: max(1, rows.shape[1] // _LOOKED_AT)]
    if rows.is_floating_point():
        rows = rows.contiguous().view(_INTEGERS[rows.element_size()])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device)
    return (rows.long() * weights).sum(1)


def _tensors(batch: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of a batch, each with the last name on the way to it."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping) or hasattr(batch, "_asdict"):
        for key, part in (batch if isinstance(batch, Mapping) else batch._asdict()).items():
            yield from _tensors(part, str(key))
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from _tensors(part, name)
    elif not (batch is None or isinstance(batch, (bool, int, float, str))):
        raise TypeError(f"a batch cannot be divided between twins, as it holds {describe(batch)}")


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
