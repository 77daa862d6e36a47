"""The closed form: the interactions that a network at a given noise level learns, from those it ends with.

Ren et al. 2024, "Towards the Dynamics of a DNN Learning Symbolic Interactions", Theorem 3:

    ŵ = (JᵀJ + 2ⁿ diag(c))⁻¹ JᵀJ w*,    J[S, T] = 1(T ⊆ S),    c_T = 2^{|T|} σ².

Both matrices are n-th Kronecker powers, JᵀJ of [[2, 1], [1, 1]] and diag(c)/σ² of diag(1, 2), so one 2x2
rotation diagonalises them together. A prediction costs O(n 2ⁿ) and no 2ⁿ x 2ⁿ matrix is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from itertools import pairwise
from math import comb

import torch
from torch import Tensor

from interaction_monitor._float64 import as_float64, to_float64
from interaction_monitor.functional import n_players, orders

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
    """Multiply the last axis by the n-th Kronecker power of a 2x2 factor, up to five players at a time.

    Blocks of five make each step a 32 x 32 matrix product, several times faster than 2x2 butterflies, which
    wait for memory.
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


@dataclass(frozen=True)
class Spectrum:
    """Final interactions in the basis where noise acts on each coefficient alone."""

    w_star: Tensor  # (..., 2^n)
    coefficients: Tensor  # (..., 2^n)
    eigenvalues: Tensor  # (2^n,)

    @classmethod
    def of(cls, w_star: Tensor) -> Spectrum:
        """Bring (..., 2^n) float64 interactions to the basis, once for all noise levels."""
        n = n_players(w_star)
        order = orders(n, device=w_star.device)
        large, small = EIGENVALUES
        by_order = w_star.new_tensor([large ** (n - k) * small**k for k in range(n + 1)])
        return cls(w_star, _kronecker_power(w_star, _W_INVERSE), by_order[order])

    def at(self, sigma2: Tensor) -> Tensor:
        """Predict at every noise level: (k,) -> (k, ..., 2^n)."""
        noise = sigma2.reshape(-1, *[1] * self.w_star.ndim) * len(self.eigenvalues)
        predicted = _kronecker_power(self.coefficients * (self.eigenvalues / (self.eigenvalues + noise)), _W)
        predicted[sigma2 == 0] = self.w_star
        return predicted

    def chunks(self, sigma2: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Predict a few noise levels at a time, so that memory does not grow with their number."""
        step = max(1, _CHUNK // max(1, self.w_star.numel()))
        for start in range(0, len(sigma2), step):
            part = slice(start, start + step)
            yield part, self.at(sigma2[part])


def checked_levels(sigma2: float | Tensor) -> Tensor:
    """Take one noise level or a vector of them as float64, or say what is wrong with it."""
    levels = as_float64(sigma2, sigma2.device if isinstance(sigma2, Tensor) else "cpu")
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
    spectrum = Spectrum.of(w_star)
    sigma2 = levels.reshape(-1).to(w_star.device)
    result = w_star.new_empty(len(sigma2), *w_star.shape)
    for part, predicted in spectrum.chunks(sigma2):
        result[part] = predicted
    return result[0] if levels.ndim == 0 else result


def _row_norms(n: int, sigma2: float) -> list[float]:
    """Norms of the rows of M̂ for one noise level, by order 0..n.

    Row T of M̂ at column T' is 2^{(|T'|-|T|)/2} Σ_j f_j [z^j] Π over players of (s²+c²z) where both hold the
    player, cs(1-z) where one does, (c²+s²z) where none does: it depends on how often each happens, no more. The
    sum is made by multiplying the factors onto f one at a time, (α+βz) taking f_j to αf_j + βf_{j+1}. Differences
    of f cancel up to 2n digits, hence the decimals.
    """
    with localcontext() as context:
        context.prec = 40 + 2 * n
        root17 = Decimal(17).sqrt()
        large, small = (5 + root17) / 4, (5 - root17) / 4
        # cos² and sin² of the rotation, whose slope is √2 (√17 - 3) / 4
        c2 = 1 / (1 + (root17 - 3) ** 2 / 8)
        s2 = 1 - c2
        cs = (c2 * s2).sqrt()
        noise = Decimal(2) ** n * Decimal(sigma2)
        kept = [1 / (1 + noise / (large ** (n - j) * small**j)) for j in range(n + 1)]

        squares: dict[tuple[int, int], Decimal] = {}  # by players in both sets, players in one
        one = kept
        for in_one in range(n + 1):
            both = one
            for in_both in range(n - in_one + 1):
                rest = both
                while len(rest) > 1:
                    rest = [c2 * f + s2 * g for f, g in pairwise(rest)]
                squares[in_both, in_one] = rest[0] ** 2
                both = [s2 * f + c2 * g for f, g in pairwise(both)]
            one = [cs * (f - g) for f, g in pairwise(one)]

        def norm(order: int) -> float:
            total = sum(
                comb(order, inside)
                * comb(n - order, outside)
                * Decimal(2) ** (inside + outside - order)
                * squares[inside, order - inside + outside]
                for inside in range(order + 1)
                for outside in range(n - order + 1)
            )
            return float(Decimal(total).sqrt())

        return [norm(order) for order in range(n + 1)]


def row_norms(n: int, sigma2: float | Tensor) -> Tensor:
    """Give the norm of a row of M̂ for every order: how far ŵ_T can reach for a w* of norm one.

    ŵ = M̂ w*, and the norm of row T depends on n, σ² and |T| only (Ren et al. 2024, Theorem 4). Here it is summed
    over the O(n³) ways in which two sets can lie to each other, in decimal arithmetic, so that it is right to
    the last digit of float64 where a dense matrix is not even representable.

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n + 1,) or (K, n + 1) float64, index = order |T| = 0..n.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> row_norms(10, 0.0).tolist() == [1.0] * 11  # no noise, M̂ is the identity
        True
        >>> bool((row_norms(20, 0.1).diff() < 0).all())  # noise hits high orders harder
        True
    """
    if n < 1:
        raise ValueError(f"n must be a number of players, at least 1, but is {n}")
    levels = checked_levels(sigma2)
    norms = [_row_norms(n, level) for level in levels.reshape(-1).tolist()]
    return torch.tensor(norms, dtype=torch.float64, device=levels.device).reshape(*levels.shape, n + 1)


def norm_ratio(n: int, sigma2: float | Tensor) -> Tensor:
    """Give r^(k) = ‖m̂_T‖ / ‖m̂_T'‖ for |T| = k, |T'| = k + 1: the head start of order k over the next.

    Each ratio is 1 without noise and rises with it, to √10: while the noise fades, high orders catch up
    (Ren et al. 2024, Proposition 1 and Figure 3).

    Args:
        n: number of players, at least 1.
        sigma2: noise variance, a number or (K,).

    Returns:
        (n - 1,) or (K, n - 1) float64 for k = 1..n-1.

    Raises:
        ValueError: if `n` is below 1, or `sigma2` negative or not finite.

    Examples:
        >>> ratio = norm_ratio(6, torch.tensor([0.0, 0.01, 1.0, 1e6]))
        >>> bool((ratio.diff(dim=0) > 0).all())
        True
        >>> [round(r, 3) for r in ratio[-1].tolist()]
        [3.162, 3.162, 3.162, 3.162, 3.162]
    """
    norms = row_norms(n, sigma2)
    return norms[..., 1:-1] / norms[..., 2:]
