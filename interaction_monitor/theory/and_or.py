"""The closed form for AND and OR interactions together.

Theorem 3 of Ren et al. 2024 is about AND interactions. Their Appendix D takes OR to the same case: call absent
what is present and present what is absent, then "any of S is present" is the negation of "all of S are
absent". In that flipped game ṽ(T) = v_or(N∖T), the interaction of S ≠ ∅ is -I_or(S), and what stands in the place
of ∅, where no player is flipped, is the output on the whole sample, v_or(x_N).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import require_one_shape
from interaction_monitor._float64 import float64_device, to_float64
from interaction_monitor.functional import n_players, order_strength
from interaction_monitor.functional.saliency import SALIENCY
from interaction_monitor.theory.closed_form import Spectrum, checked_interactions, checked_levels


@dataclass(frozen=True)
class Prediction:
    """AND and OR interactions that the closed form predicts, in the usual convention."""

    and_: Tensor  # (..., 2^n) float64, index 0 = the shrunk v(x_∅)
    or_: Tensor  # (..., 2^n) float64, index 0 = 0
    or_whole: Tensor  # (...) float64, the shrunk v_or(x_N), which the flip puts in the place of ∅

    def threshold(self, fraction: float = SALIENCY) -> Tensor:
        """Give τ_theo, the size from which on a predicted interaction counts as salient.

        The paper's τ_theo = 0.03·|Σ_S ŵ_S - ŵ_∅| is 0.03·|v_theo(x_N) - v_theo(x_∅)| of the AND part. With OR,
        v_theo(x_N) = Σ_S ŵ_and(S) + or_whole and v_theo(x_∅) = ŵ_and(∅) + or_whole - Σ_S ŵ_or(S), so that the
        difference is the sum of all predicted interactions but ∅: one threshold per sample for both kinds.

        Args:
            fraction: share of the output change; 0.03 is the paper's.

        Returns:
            (...) float64, in units of the output.
        """
        return fraction * (self.and_[..., 1:].sum(-1) + self.or_[..., 1:].sum(-1)).abs()


def _chunks(
    w_and: Tensor, w_or: Tensor | None, sigma2: Tensor, or_whole: Tensor | None
) -> Iterator[tuple[slice, Prediction]]:
    w_and = checked_interactions("w_and", w_and)
    if w_or is None:
        for part, predicted in Spectrum.of(w_and).chunks(sigma2):
            yield part, Prediction(predicted, torch.zeros_like(predicted), predicted.new_zeros(predicted.shape[:-1]))
        return
    w_or = checked_interactions("w_or", w_or)
    require_one_shape(w_and=w_and, w_or=w_or)
    flipped = -w_or
    flipped[..., 0] = w_or[..., 1:].sum(-1) if or_whole is None else to_float64(or_whole)
    for part, predicted in Spectrum.of(torch.stack((w_and, flipped))).chunks(sigma2):
        and_, turned = predicted.unbind(1)
        or_whole_part = turned[..., 0].clone()
        or_ = turned.neg_()
        or_[..., 0] = 0
        yield part, Prediction(and_, or_, or_whole_part)


def predict_and_or(
    w_and: Tensor, w_or: Tensor, sigma2: float | Tensor, *, or_whole: Tensor | None = None
) -> Prediction:
    """Predict AND and OR interactions at one or many noise levels from those the network converges to.

    AND goes through `predict` as it is. OR goes through it flipped, w̃_∅ = v_or(x_N) and w̃_S = -w_or(S), and
    comes back with the sign turned (Ren et al. 2024, Theorem 3 and Appendix D).

    Args:
        w_and: (..., 2^n) AND interactions of the converged network, v(x_∅) at index 0.
        w_or: (..., 2^n) its OR interactions; index 0 is not read, OR has no empty pattern.
        sigma2: noise variance, a number or (K,).
        or_whole: (...) v_or(x_N), the sum of *all* OR interactions of the network. Give it where `w_or` holds
            only the salient ones; default: the sum of `w_or`.

    Returns:
        The prediction, its tensors with a leading axis K where `sigma2` is a vector.

    Raises:
        ValueError: if `sigma2` is negative or not finite, or the interactions differ in shape, are not finite or
            their last axis is no power of two.

    Examples:
        >>> w_and = torch.tensor([0.5, 1.0, 0.0, 2.0])
        >>> w_or = torch.tensor([0.0, 0.0, 0.0, 3.0])
        >>> predict_and_or(w_and, w_or, 0.0).or_.tolist()
        [0.0, 0.0, 0.0, 3.0]
        >>> predict_and_or(w_and, w_or, 0.1).or_.tolist()[3] < 3
        True
    """
    levels = checked_levels(sigma2)
    flat = levels.reshape(-1).to(float64_device(w_and.device))
    shape = (len(flat), *w_and.shape)
    and_, or_ = torch.empty(2, *shape, dtype=torch.float64, device=flat.device)
    whole = and_.new_empty(shape[:-1])
    for part, prediction in _chunks(w_and, w_or, flat, or_whole):
        and_[part], or_[part], whole[part] = prediction.and_, prediction.or_, prediction.or_whole
    if levels.ndim == 0:
        return Prediction(and_[0], or_[0], whole[0])
    return Prediction(and_, or_, whole)


def predicted_strength(
    w_and: Tensor,
    w_or: Tensor | None,
    sigma2: float | Tensor,
    *,
    or_whole: Tensor | None = None,
    fraction: float = SALIENCY,
) -> Tensor:
    """Sum the salient predicted interactions of every order, keeping no prediction in memory.

    The numerator of I_theo^(k) for one sample, with τ_theo as in `Prediction.threshold` (Ren et al. 2024, section
    3.3.2).

    The extraction gives order one to AND, since "any of {i}" is "all of {i}". Noise puts strength there from OR
    patterns of higher order; it is added to AND's before the threshold, so that prediction and measurement count alike.

    Args:
        w_and: (S, 2^n) AND interactions of the converged network, v(x_∅) at index 0.
        w_or: (S, 2^n) its OR interactions, or None where only AND interactions were computed.
        sigma2: noise variance, a number or (K,).
        or_whole: (S,) v_or(x_N), see `predict_and_or`.
        fraction: share of the predicted output change that makes τ_theo; 0.03 is the paper's.

    Returns:
        (S, n) for a number, (K, S, n) for a vector, float64, entry k-1 for order k.

    Raises:
        ValueError: as `predict_and_or`.

    Examples:
        >>> w_star = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
        >>> predicted_strength(w_star, None, 0.0).tolist()
        [[1.0, 2.0]]
    """
    levels = checked_levels(sigma2)
    flat = levels.reshape(-1).to(float64_device(w_and.device))
    n = n_players(w_and)
    single = 1 << torch.arange(n, device=flat.device)
    result = torch.empty(len(flat), *w_and.shape[:-1], n, dtype=torch.float64, device=flat.device)
    for part, prediction in _chunks(w_and, w_or, flat, or_whole):
        tau = prediction.threshold(fraction)
        prediction.and_[..., single] += prediction.or_[..., single]
        prediction.or_[..., single] = 0
        result[part] = order_strength(prediction.and_, None if w_or is None else prediction.or_, tau)
    return result[0] if levels.ndim == 0 else result
