"""The closed form: the interactions that a network at a given noise level learns, from those it ends with.

Ren et al. 2024, "Towards the Dynamics of a DNN Learning Symbolic Interactions", Theorem 3:

    ŵ = (JᵀJ + 2ⁿ diag(c))⁻¹ JᵀJ w*,    J[S, T] = 1(T ⊆ S),    c_T = 2^{|T|} σ².

Both matrices are n-th Kronecker powers, JᵀJ of [[2, 1], [1, 1]] and diag(c)/σ² of diag(1, 2), so one 2x2
rotation diagonalises them together. A prediction costs O(n 2ⁿ) and no 2ⁿ x 2ⁿ matrix is ever made.

The theorem is about AND. Appendix D takes OR to the same case: call absent what is present, and present what
is absent, then "any of S is present" is the negation of "all of S are absent". In that flipped game ṽ(T) = v_or(N∖T),
the interaction of S ≠ ∅ is -I_or(S), and in the place of ∅, where no player is flipped, is v_or(x_N).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import float64_device, require_one_shape, to_float64
from interaction_monitor.functional import n_players, order_strength, orders
from interaction_monitor.functional.saliency import SALIENCY

# D^{-1/2} [[2, 1], [1, 1]] D^{-1/2} with D = diag(1, 2) is [[2, 1/√2], [1/√2, 1/2]]: these are its two eigenvalues
# and the cosine and sine of the rotation Q to its eigenvectors. W = D^{-1/2} Q, so Wᵀ D W = 1 and W⁻¹ = Qᵀ D^{1/2}.
EIGENVALUES = ((5 + math.sqrt(17)) / 4, (5 - math.sqrt(17)) / 4)
_SLOPE = math.sqrt(2) * (math.sqrt(17) - 3) / 4
_COSINE = 1 / math.sqrt(1 + _SLOPE**2)
_SINE = _SLOPE * _COSINE
_W = ((_COSINE, -_SINE), (_SINE / math.sqrt(2), _COSINE / math.sqrt(2)))
_W_INVERSE = ((_COSINE, _SINE * math.sqrt(2)), (-_SINE, _COSINE * math.sqrt(2)))

# Numbers predicted at once, 32 MiB: large enough to keep the cores busy, small beside any result worth waiting for.
_CHUNK = 1 << 22


def _kronecker_power(x: Tensor, factor: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """Multiply the last axis by the n-th Kronecker power of a 2x2 factor.

    Up to five players at a time make each step a 32 x 32 matrix product, several times faster than 2x2 butterflies.
    """
    n = n_players(x)
    shape, done = x.shape, 0
    for steps in range(-(-n // 5), 0, -1):
        size = -(-(n - done) // steps)
        block = x.new_ones(1, 1)
        for _ in range(size):
            block = torch.kron(x.new_tensor(factor), block)
        # a product with the last axis as the matrix's own is one large call, else a batch of small ones
        x = x.reshape(-1, 1 << size) @ block.T if done == 0 else block @ x.reshape(-1, 1 << size, 1 << done)
        done += size
    return x.reshape(shape)


def _predicted(w_star: Tensor, sigma2: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Predict at a few of the (K,) noise levels at a time, so that memory does not grow with their number."""
    n = n_players(w_star)
    large, small = EIGENVALUES
    by_order = w_star.new_tensor([large ** (n - k) * small**k for k in range(n + 1)])
    eigenvalues = by_order[orders(n, device=w_star.device)]
    # in this basis the noise acts on each coefficient alone
    coefficients = _kronecker_power(w_star, _W_INVERSE)
    step = max(1, _CHUNK // max(1, w_star.numel()))
    for start in range(0, len(sigma2), step):
        part = slice(start, start + step)
        noise = sigma2[part].reshape(-1, *[1] * w_star.ndim) * 2**n
        predicted = _kronecker_power(coefficients * (eigenvalues / (eigenvalues + noise)), _W)
        predicted[sigma2[part] == 0] = w_star
        yield part, predicted


def checked_levels(sigma2: float | Tensor) -> Tensor:
    """Take one noise level or a vector of them as float64, or say what is wrong with it."""
    levels = to_float64(sigma2)
    if levels.ndim > 1:
        raise ValueError(f"sigma2 must be a number or a vector (K,), but has shape {tuple(levels.shape)}; flatten it")
    bad = levels[~(torch.isfinite(levels) & (levels >= 0))]
    if bad.numel():
        raise ValueError(f"sigma2 is a variance and must be finite and at least 0, but holds {bad.flatten()[0].item()}")
    return levels


def checked_interactions(name: str, w: Tensor) -> Tensor:
    """Take interactions over all coalitions as float64, or say what is wrong with them."""
    n_players(w)
    w = to_float64(w)
    if not torch.isfinite(w).all():
        raise ValueError(f"{name} must be finite, but holds nan or inf; leave out the samples that have them")
    return w


def predict(w_star: Tensor, sigma2: float | Tensor) -> Tensor:
    """Predict the AND interactions of a network at one or many noise levels from those it converges to.

    In the basis where the noise acts on each coefficient alone, ŵ keeps λ_T / (λ_T + 2ⁿσ²) of every coefficient,
    λ_T = λ_0^{n-|T|} λ_1^{|T|}. `w_star` is brought to that basis once, every further σ² costs one way back. In
    float64 the result is nearer to the exact one than a dense solve, whose condition number grows as 6.9ⁿ
    (Ren et al. 2024, Theorem 3; Theorem 5 is σ² = 0, where `w_star` comes back unchanged).

    Args:
        w_star: (..., 2^n) interactions of the converged network, usually its salient ones and 0 elsewhere;
            `w_star[..., 0]` is the output on the empty coalition, v(x_∅), shrunk like the others. float64.
        sigma2: noise variance σ² of Assumption 1, a number or (K,), in the square of no unit: the noise is on
            triggering strengths, which are 0 or 1.

    Returns:
        ŵ, (..., 2^n) for a number, (K, ..., 2^n) for a vector, float64, on the device of `w_star`.

    Raises:
        ValueError: if `sigma2` is negative or not finite, `w_star` not finite or its last axis no power of two.

    Examples:
        >>> w_star = torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64)
        >>> predict(w_star, 0.0).tolist()
        [0.0, 1.0, 0.0, 2.0]
        >>> predict(w_star, torch.tensor([0.0, 1e9])).norm(dim=-1) < torch.tensor([3.0, 1e-8])
        tensor([True, True])
    """
    levels = checked_levels(sigma2)
    w_star = checked_interactions("w_star", w_star)
    flat = levels.reshape(-1).to(w_star.device)
    result = w_star.new_empty(len(flat), *w_star.shape)
    for part, predicted in _predicted(w_star, flat):
        result[part] = predicted
    return result[0] if levels.ndim == 0 else result


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


def _predicted_kinds(
    w_and: Tensor, w_or: Tensor | None, sigma2: Tensor, or_whole: Tensor | None
) -> Iterator[tuple[slice, Prediction]]:
    w_and = checked_interactions("w_and", w_and)
    if w_or is None:
        for part, predicted in _predicted(w_and, sigma2):
            yield part, Prediction(predicted, torch.zeros_like(predicted), predicted.new_zeros(predicted.shape[:-1]))
        return
    w_or = checked_interactions("w_or", w_or)
    require_one_shape(w_and=w_and, w_or=w_or)
    flipped = -w_or
    flipped[..., 0] = w_or[..., 1:].sum(-1) if or_whole is None else to_float64(or_whole)
    for part, predicted in _predicted(torch.stack((w_and, flipped)), sigma2):
        and_, turned = predicted.unbind(1)
        whole = turned[..., 0].clone()
        turned.neg_()[..., 0] = 0
        yield part, Prediction(and_, turned, whole)


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
    for part, prediction in _predicted_kinds(w_and, w_or, flat, or_whole):
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
    for part, prediction in _predicted_kinds(w_and, w_or, flat, or_whole):
        tau = prediction.threshold(fraction)
        prediction.and_[..., single] += prediction.or_[..., single]
        prediction.or_[..., single] = 0
        result[part] = order_strength(prediction.and_, None if w_or is None else prediction.or_, tau)
    return result[0] if levels.ndim == 0 else result
