"""What is explained: one number per masked sample, computed from the model's logits in float64.

An output takes the logits of a batch and the targets, and returns a float64 vector. Any callable of that kind
can be given in place of a name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interaction_monitor._checks import float64_device, to_float64, where_float64_is
from interaction_monitor.targets import classes_of

Output = Callable[[Tensor, Tensor | None], Tensor]


def log_odds(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Compute the log-odds of the true class, log p/(1-p) = z_y - logsumexp of the other logits [Ren et al. 2024, 3.1].

    The form with 1-p loses everything once p rounds to one; this one is exact at logits of ±1e4. A logit of
    -inf (an impossible class) gives -inf for the class itself and is left out of the others' sum.

    Args:
        logits: (B, C) logits of C ≥ 2 classes; or (B, 1) or (B,), the one logit z of a binary head, whose
            log-odds are z for class 1 and -z for class 0. Any float dtype.
        targets: (B,) or (B, 1) true classes.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if the targets are missing or do not fit the logits.

    Examples:
        >>> log_odds(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([0]))
        tensor([10000.], dtype=torch.float64)
    """
    targets = classes_of(logits, targets, "log_odds")
    if logits.ndim == 1 or logits.shape[1] == 1:
        return _signed(logits, targets)
    # Two float64 copies of a large vocabulary's logits are formed: keep each below 64 MB.
    rows = max(1, 2**23 // logits.shape[1])
    blocks = zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    return torch.cat([_log_odds(*block) for block in blocks])


def logit(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Take the true class's logit [Chen et al. 2024, task 3].

    Args:
        logits: (B, C); or (B, 1) or (B,), the one logit z of a binary head: z for class 1, -z for class 0.
        targets: (B,) or (B, 1) true classes.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if the targets are missing or do not fit the logits.

    Examples:
        >>> logit(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
        tensor([2.], dtype=torch.float64)
    """
    targets = classes_of(logits, targets, "logit")
    if logits.ndim == 1 or logits.shape[1] == 1:
        return _signed(logits, targets)
    return to_float64(logits.gather(1, targets.long()[:, None].to(logits.device))[:, 0])


def loss(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy of the true class, -log p, without reduction.

    Args:
        logits: (B, C); or (B, 1) or (B,), the one logit of a binary head.
        targets: (B,) or (B, 1) true classes.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if the targets are missing or do not fit the logits.

    Examples:
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931], dtype=torch.float64)
    """
    odds = log_odds(logits, targets)
    # softplus would do, but torch's turns into the identity beyond 20, which is not float64's accuracy.
    return torch.logaddexp(torch.zeros_like(odds), -odds)


def next_token_log_odds(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Compute the log-odds of the next token of a causal language model [Chen et al. 2024, task 2].

    Args:
        logits: (B, L, V), of which the last position counts, or (B, V). Where sentences are padded on the right, and
            to form no other logits than these, give `forward_func=language_models.last_token_logits`.
        targets: (B,) token ids: the word that follows, or, from `language_models.most_probable`, the one that the model
            expects.

    Returns:
        (B,) float64.

    Raises:
        ValueError: if the targets are missing or do not fit the logits.

    Examples:
        >>> next_token_log_odds(torch.tensor([[[9.0, 9.0, 9.0], [3.0, 1.0, -torch.inf]]]), torch.tensor([0]))
        tensor([2.], dtype=torch.float64)
    """
    last = logits[:, -1] if logits.ndim == 3 else logits
    return log_odds(last, classes_of(last, targets, "next_token_log_odds"))


def prediction(logits: Tensor, _targets: Tensor | None = None) -> Tensor:
    """Take the network's own value: what a regression predicts, or any one number per sample.

    Args:
        logits: (B,) or (B, 1); targets are not used.

    Returns:
        (B,) float64, in the units of the network's output.

    Raises:
        ValueError: if there are several values per sample.

    Examples:
        >>> prediction(torch.tensor([[21.5], [19.0]]))
        tensor([21.5000, 19.0000], dtype=torch.float64)
    """
    if logits.ndim not in (1, 2) or logits[0].numel() != 1 or logits.is_complex():
        raise ValueError(
            f"output 'prediction' needs one number per sample, (B,) or (B, 1), got {tuple(logits.shape)} of "
            f"{logits.dtype}; of several name one, such as output=lambda values, targets: values[:, 0].double()"
        )
    return to_float64(logits.reshape(-1))


def label_log_odds(label: int) -> Output:
    """Make the output of one label of a multi-label network (a sigmoid each): its log-odds are its logit.

    Args:
        label: which column of the logits (B, C).

    Returns:
        The output; it needs no targets.

    Raises:
        ValueError: from the output, if there is no such label.

    Examples:
        >>> label_log_odds(1)(torch.tensor([[0.5, -2.0]]), None)
        tensor([-2.], dtype=torch.float64)
    """

    def output(logits: Tensor, _targets: Tensor | None = None) -> Tensor:
        if logits.ndim != 2 or not 0 <= label < logits.shape[1]:
            raise ValueError(f"label={label} must be a column of logits (batch, labels), got {tuple(logits.shape)}")
        return to_float64(logits[:, label])

    output.__name__ = f"label_log_odds({label})"
    return output


def smoothed_log_odds(epsilon: float = 1e-7) -> Output:
    """Make the log-odds as the papers' authors compute them, log(p/(1-p+ε) + ε): they end at ±log(1/ε).

    With ε = 1e-7 that is ±16.1: a network that is surer than that shows no interaction of what makes it so.
    `log_odds` has no such ends; use this to reproduce published numbers.

    Args:
        epsilon: ε; 1e-7 is the authors'.

    Returns:
        The output, (B, C) logits and (B,) classes to (B,) float64.

    Raises:
        ValueError: if `epsilon` does not lie between 0 and 1.

    Examples:
        >>> smoothed_log_odds()(torch.tensor([[1e4, 0.0], [3.0, 1.0]]), torch.tensor([0, 0]))
        tensor([16.1181,  2.0000], dtype=torch.float64)
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must lie between 0 and 1, but is {epsilon}; the authors' is 1e-7")

    def output(logits: Tensor, targets: Tensor | None = None) -> Tensor:
        odds = log_odds(logits, targets)
        return (odds.sigmoid() / ((-odds).sigmoid() + epsilon) + epsilon).log()

    output.__name__ = f"smoothed_log_odds({epsilon})"
    return output


OUTPUTS: dict[str, Output] = {
    "log_odds": log_odds,
    "logit": logit,
    "loss": loss,
    "next_token_log_odds": next_token_log_odds,
    "prediction": prediction,
}


def resolve(output: str | Output) -> Output:
    """Return the output of that name, or the callable itself.

    Args:
        output: one of "log_odds", "logit", "loss", "next_token_log_odds", "prediction", or a callable (logits (B, C),
            targets (B,) or None) -> (B,).

    Raises:
        ValueError: if there is no output of that name.
        TypeError: if it is neither a name nor callable.

    Examples:
        >>> resolve("log_odds") is log_odds
        True
    """
    if isinstance(output, str):
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} is unknown; take one of {', '.join(map(repr, OUTPUTS))} or a callable")
        return OUTPUTS[output]
    if not callable(output):
        raise TypeError(f"output must be a name or a callable (logits, targets) -> (B,), got {type(output).__name__}")
    return output


def score_of(score: Output, logits: Tensor, targets: Tensor | None) -> Tensor:
    """Compute the outputs of a batch, on the CPU where its device has no float64.

    Args:
        score: from `resolve`.
        logits: (B, ...).
        targets: (B, ...) or None.

    Returns:
        (B,).

    Raises:
        ValueError: if `score` does not return one number per row.
    """
    if float64_device(logits.device) != logits.device:
        logits, targets = logits.cpu(), None if targets is None else targets.cpu()
    values = score(logits, targets)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"output= must return one number per row, shape ({len(logits)},), but returned {shape}")
    return values


def _signed(logits: Tensor, targets: Tensor) -> Tensor:
    z = to_float64(logits).reshape(-1)
    return torch.where(targets.to(z.device) > 0.5, z, -z)


def _log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    z = where_float64_is(logits).to(torch.float64, copy=True)
    index = targets.long()[:, None].to(z.device)
    true = z.gather(1, index)[:, 0]
    # In place where that is allowed: a copy of a large vocabulary's logits is what the blocks are cut for.
    others = z.scatter(1, index, -torch.inf) if z.requires_grad else z.scatter_(1, index, -torch.inf)
    return true - others.logsumexp(1)
