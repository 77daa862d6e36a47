"""Whether logits and targets are those of a classifier; what else they may be, and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor._checks import to_float64

_VALUE = 'for the network\'s own value, as in a regression, give output="prediction"'
_FUNCTION = "give output= a function of (values, targets) to one number per sample, such as lambda values, targets: "
_ERROR = _FUNCTION + "-(values.flatten(1) - targets.flatten(1)).double().square().mean(1)"
_OWN_INPUTS = "give probe=Probe(x, x) of x = Probe.from_loader(val_loader).inputs"
_POSITION = (
    "for one of several positions, the last say, give "
    "output=lambda logits, targets: outputs.log_odds(logits[:, -1], targets[:, -1])"
)
_NEXT_TOKEN = (
    'for the next token of a language model give output="next_token_log_odds" and Probe(inputs, ids of the token that '
    "follows), or the probe from language_models.most_probable(model, probe)"
)


def classes_of(logits: Tensor, targets: Tensor | None, name: str) -> Tensor:
    """Return the true classes, (B,), after a check that logits and targets are those of a classifier.

    Args:
        logits: what the model returned.
        targets: (B,), or (B, 1).
        name: of the output that needs them.

    Raises:
        ValueError: that says what they are otherwise, and what to do.
    """
    if logits.ndim not in (1, 2) or not logits.is_floating_point():
        raise ValueError(
            f"output {name!r} needs logits of shape (batch, classes), got {tuple(logits.shape)} of "
            f"{logits.dtype}; {_of_logits(logits, targets)}"
        )
    if logits.ndim == 2 and logits.shape[1] == 0:
        raise ValueError(f"output {name!r} needs logits of at least one class, got the shape {tuple(logits.shape)}")
    if targets is None:
        raise ValueError(
            f"output {name!r} needs the true classes, and the probe has no targets: Probe(inputs, targets)"
        )
    if targets.is_complex():
        raise ValueError(f"output {name!r} needs integer classes, got complex targets of {targets.dtype}")
    if targets.shape == (len(logits), 1):
        targets = targets[:, 0]
    if targets.shape != logits.shape[:1]:
        raise ValueError(
            f"output {name!r} needs one class per sample, (B,): got targets of shape {tuple(targets.shape)} "
            f"for logits of shape {tuple(logits.shape)}; {_of_targets(logits, targets)}"
        )
    # On an accelerator the comparisons would wait for the device at every chunk; the dry run checks on the CPU.
    if targets.device.type == "cpu" and len(targets):
        _require_range(logits, targets, name)
    elif targets.is_floating_point() and not _is_binary(logits):
        raise _no_integers(targets, name)
    return targets


def refuse_reconstructions(logits: Tensor, targets: Tensor, inputs: Iterable[Tensor]) -> None:
    """Refuse what has a number for each element of an input, and far more of them than there are classes.

    Args:
        logits: (B, C) of a few samples.
        targets: (S,) the true classes of all samples.
        inputs: (S, ...) each.

    Raises:
        ValueError: if these are an autoencoder's.
    """
    if logits.ndim != 2 or logits.shape[1] <= 2 * (int(targets.max()) + 1):
        return
    if any(x.is_floating_point() and x[0].numel() == logits.shape[1] for x in inputs):
        raise ValueError(
            f"the model returns {logits.shape[1]} numbers per sample, one for each element of its input, while the "
            f"targets go up to {int(targets.max())}: it seems to be an autoencoder, whose numbers are no logits of "
            f"classes. If its inputs are what it gives back, {_OWN_INPUTS}, and {_ERROR}; or forward_func= that "
            "returns logits. If they are logits, say so by "
            "output=lambda logits, targets: outputs.log_odds(logits, targets)"
        )


def warn_of_no_logits(logits: Tensor, *, from_sigmoid: bool = False) -> None:
    """Warn if what a model returned are probabilities, whose log-odds would be computed a second time, or embeddings.

    Args:
        logits: (B, C) or (B,) of a few samples.
        from_sigmoid: whether a sigmoid is the last that happened to them.
    """
    z, text = to_float64(logits), None
    several = logits.ndim == 2 and logits.shape[1] > 1
    if not bool((z >= 0).all()):
        if several and bool(((z.square().sum(1) - 1).abs() < 1e-5).all()):
            text = (
                "the model seems to return embeddings (each row has length one), but the output needs logits of "
                "classes; give forward_func= that returns such logits, the similarities to one vector for each class "
                "say, or output= a function of (embeddings, targets) to one number per sample"
            )
    elif from_sigmoid and bool((z <= 1).all()):
        text = (
            "the model returns probabilities (its last step is a sigmoid), but the output needs logits; give "
            "forward_func= that returns what comes before the sigmoid, or forward_func=lambda model, inputs: "
            "torch.logit(model(inputs), 1e-6)"
        )
    elif several and bool(((z.sum(1) - 1).abs() < 1e-3).all()):
        text = (
            "the model seems to return probabilities (each row is positive and sums to one), but the output needs "
            "logits; give forward_func=lambda model, inputs: model(inputs).log()"
        )
    if text is not None:
        warnings.warn(text, stacklevel=2)


def _is_binary(logits: Tensor) -> bool:
    return logits.ndim == 1 or logits.shape[1] == 1


def _no_integers(targets: Tensor, name: str) -> ValueError:
    return ValueError(
        f"output {name!r} needs integer classes, got targets of {targets.dtype}; give Probe(inputs, "
        "targets.long()) if they are classes, or another output="
    )


def _require_range(logits: Tensor, targets: Tensor, name: str) -> None:
    if targets.is_floating_point() and bool((targets.isnan() | (targets % 1 != 0)).any()):
        example = targets[targets.isnan() | (targets % 1 != 0)][0].item()
        soft = _is_binary(logits) and bool(((targets >= 0) & (targets <= 1)).all())
        several = f"if the network returns several values, {_FUNCTION}-(values[:, 0] - targets).double().square()"
        what = _VALUE if _is_binary(logits) else several
        raise ValueError(
            f"output {name!r} needs classes, but the targets are fractions such as {example:.4g}; {what}"
            + "; of probabilities of class 1 give Probe(inputs, (targets > 0.5).long())" * soft
        )
    if targets.is_floating_point() and not _is_binary(logits):
        raise _no_integers(targets, name)
    n_classes = max(logits.shape[1:].numel(), 2)
    if not (targets.min() >= 0 and targets.max() < n_classes):
        binary = _is_binary(logits)
        signs = bool(((targets == 1) | (targets == -1)).all())
        raise ValueError(
            f"labels out of range: targets go from {targets.min().item()} to {targets.max().item()}, but the "
            f"model returns {'one logit, of a binary head,' if binary else 'logits'} for {n_classes} classes "
            f"(0 to {n_classes - 1})"
            + ("; of signs give Probe(inputs, (targets > 0).long())" if signs else f"; {_VALUE}" * binary)
        )


def _of_logits(logits: Tensor, targets: Tensor | None) -> str:
    if logits.ndim > 2 and logits.is_floating_point() and logits[0].numel() == max(logits.shape[1:]) > 1:
        return "give forward_func=lambda module, x: module(x).flatten(1), as all other axes are one long"
    if logits.ndim == 3 and logits.is_floating_point():
        of_each = targets is not None and targets.shape == logits.shape[:2]
        return f"{_NEXT_TOKEN}; {_POSITION if of_each else 'for another position give forward_func= with its logits'}"
    if logits.ndim > 3 and logits.is_floating_point():
        entropy = ""
        if targets is not None and targets.shape == (len(targets), *logits.shape[2:]):
            entropy = "cross_entropy(values, targets.long()"
        elif targets is not None and targets.shape == logits.shape and _is_marks(targets):
            entropy = "binary_cross_entropy_with_logits(values, targets.float()"
        if entropy:
            each = f'torch.nn.functional.{entropy}, reduction="none").double()'
            return f"values for each position are a segmentation's: {_FUNCTION}-{each}.flatten(1).mean(1)"
        classes = targets is None or targets.ndim < logits.ndim - 1  # there is nothing to compare the values with
        return (
            "values for each position are an autoencoder's or a segmentation's: "
            + f"if the inputs are what is to be given back, {_OWN_INPUTS}, and " * classes
            + f"{_ERROR}, or forward_func= that returns the logits of one position"
        )
    return "give forward_func= that returns such logits, or another output="


def _of_targets(logits: Tensor, targets: Tensor) -> str:
    if targets.shape == logits.shape and _is_marks(targets):
        return (
            "of one-hot targets give Probe(inputs, targets.argmax(1)); for several labels per sample give "
            "output=outputs.label_log_odds(label)"
        )
    if targets.is_floating_point():
        z = to_float64(targets)
        if targets.shape == logits.shape and bool((z >= 0).all() and ((z.sum(1) - 1).abs() < 1e-3).all()):
            return "of shares that sum to one give Probe(inputs, targets.argmax(1))"
        return f"several values per sample are a regression's or an autoencoder's: {_ERROR}"
    if targets.ndim == 2:
        return f"targets for each token do not say which one is explained: {_NEXT_TOKEN}"
    return "give the one that is explained: Probe(inputs, classes)"


def _is_marks(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def ends_in_sigmoid(run: Callable[[], Tensor]) -> bool:
    """Tell whether the last step of a computation is a sigmoid.

    What only moves, casts, bounds or squeezes its result does not count as a step.

    Args:
        run: computes the tensor in question.

    Examples:
        >>> x = torch.randn(3, 1)
        >>> ends_in_sigmoid(lambda: x.sigmoid().squeeze(1)), ends_in_sigmoid(lambda: x.sigmoid() * x)
        (True, False)
    """
    sigmoids = _Sigmoids()
    with sigmoids:
        result = run()
    return sigmoids.made(result)


class _Sigmoids(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Remembers which tensors are a sigmoid's result, or made of one such tensor alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._results: dict[int, Tensor] = {}  # they are kept alive, or another would get their number

    def made(self, tensor: Tensor) -> bool:
        return id(tensor) in self._results

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        follows = len(given) == 1 and self.made(given[0])
        if isinstance(result, Tensor) and (func is torch.ops.aten.sigmoid.default or follows):
            self._results[id(result)] = result
        return result
