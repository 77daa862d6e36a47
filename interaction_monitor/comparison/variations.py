"""The same networks extracted again: with other charges, or from outputs that hardly differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from interaction_monitor.comparison.comparison import Comparison, Extraction
from interaction_monitor.functional import overlap, shared_and_or, sparsest_and_or
from interaction_monitor.functional.extraction import NOISE, TOL


@dataclass(frozen=True)
class Ablation:
    """What the charge α does to shared extractions (Chen et al. 2024, Figure 8)."""

    alphas: tuple[float, ...]  # (A,)
    extractions: tuple[Extraction, ...]  # (A,) the shared one for each α


def ablate(
    comparison: Comparison,
    alphas: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    *,
    noise: float = NOISE,
    tol: float = TOL,
    normalize: bool = False,
) -> Ablation:
    """Extract the shared interactions of a comparison's networks with several α.

    Args:
        comparison: the networks.
        alphas: as `alpha` of `shared_and_or`; the defaults are the paper's.
        noise: as in `shared_and_or`.
        tol: as in `shared_and_or`.
        normalize: as in `shared_and_or`; give what the comparison was made with.

    Returns:
        An extraction for each α.

    Raises:
        ValueError: if there is no α, or one is negative.

    Examples:
        >>> from interaction_monitor.comparison import compare_outputs
        >>> ablation = ablate(compare_outputs(torch.rand(2, 2, 8)), alphas=(0.0, 1.0))
        >>> [extraction.name for extraction in ablation.extractions]
        ['α = 0', 'α = 1']
    """
    if not alphas or min(alphas) < 0:
        raise ValueError(f"alphas must be numbers of at least 0, but are {list(alphas)}")

    def extracted(alpha: float) -> Extraction:
        result = shared_and_or(comparison.v, alpha=alpha, noise=noise, tol=tol, normalize=normalize)
        return replace(comparison.shared, name=f"α = {alpha:g}", and_=result.and_, or_=result.or_)

    return Ablation(tuple(alphas), tuple(extracted(alpha) for alpha in alphas))


@dataclass(frozen=True)
class Repetition:
    """Each network extracted alone a second time, from outputs changed a little."""

    again: Extraction
    k: int
    and_: tuple[float, ...]  # (m,) share of the strongest k AND interactions that are among the k of the second time
    or_: tuple[float, ...]  # (m,)


def extract_again(
    comparison: Comparison, *, k: int = 100, change: float = 1e-6, noise: float = NOISE, tol: float = TOL
) -> Repetition:
    """Extract each network alone again, and see how many of the strongest interactions are the same.

    The extraction has no start that could be varied as Chen et al. 2024 do (Table 2 and Figure 12): the same outputs
    give the same interactions. So the outputs are changed, by normal noise of a millionth of their mean size.

    Args:
        comparison: the networks.
        k: how many of the strongest; 100 is the paper's. Fewer where there are fewer interactions.
        change: standard deviation of the noise, as a share of each sample's mean |v(T) - v(∅)|.
        noise: as in `sparsest_and_or`.
        tol: as in `sparsest_and_or`.

    Returns:
        The second extraction, and the overlaps.

    Examples:
        >>> from interaction_monitor.comparison import compare_outputs
        >>> repetition = extract_again(compare_outputs(torch.rand(2, 2, 8)), k=3, change=0.0)
        >>> repetition.and_
        (1.0, 1.0)
    """
    v = comparison.v
    k = min(k, v.shape[-1] - 1)
    size = (v - v[..., :1]).abs().mean(-1, keepdim=True)
    changed = v + change * size * torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(0))
    results = [sparsest_and_or(outputs, noise=noise, tol=tol) for outputs in changed]
    and_, or_ = (torch.stack([getattr(result, kind) for result in results]) for kind in ("and_", "or_"))
    alone = comparison.alone
    shares = [overlap(a, b, k).nanmean(-1).tolist() for a, b in ((alone.and_, and_), (alone.or_, or_))]
    return Repetition(replace(alone, name="again", and_=and_, or_=or_), k, tuple(shares[0]), tuple(shares[1]))
