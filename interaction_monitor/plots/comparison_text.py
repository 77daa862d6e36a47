"""A comparison in words and numbers, and in a TensorBoard run of its own."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.comparison.several_networks import Comparison, Extraction, Repetition
from interaction_monitor.functional import generalization_curve, members, order_sharing, strongest
from interaction_monitor.plots.sample_figures import SIGNS
from interaction_monitor.plots.tensorboard import EVENTS

# Less than this beyond unrelated outputs is within what samples and ties make.
LEAST_BEYOND = 0.05
_EVENTS = ".comparison"  # at the end of the name of its event file, which is replaced each time


def powers(extraction: Extraction, ks: Sequence[int]) -> tuple[list[float], list[float]]:
    """Give s_and and s_or for each k, means over networks and samples; s_or is NaN where there is no OR."""
    curves = (generalization_curve(x, ks, floor=extraction.counting.floor) for x in (extraction.and_, extraction.or_))
    and_, or_ = (curve.nanmean((0, 1)).tolist() for curve in curves)
    return and_, [math.nan] * len(ks) if extraction.and_only else or_


def shared_by_order(extraction: Extraction) -> tuple[list[float], list[float]]:
    """Give, for each order, the mean strength of the salient interactions and that of the shared ones among them."""
    sharing = order_sharing(extraction.and_, extraction.or_, *extraction.salient)
    every = (sharing.all_positive - sharing.all_negative).mean((0, 1))
    shared = (sharing.shared_positive - sharing.shared_negative).mean((0, 1))
    return every.tolist(), shared.tolist()


def sign_agreement(extraction: Extraction, k: int) -> float:
    """Give the share of the shared interactions, AND and OR, that have one sign in all networks; NaN without any.

    The definition of generalization power leaves the sign out.
    """
    shared = agreed = 0.0
    for effects in (extraction.and_, extraction.or_):
        in_all = strongest(effects, k, floor=extraction.counting.floor).all(0)
        shared += float(in_all.sum())
        agreed += float((in_all & (effects.sign() == effects[0].sign()).all(0)).sum())
    return agreed / shared if shared else math.nan


def table(comparison: Comparison) -> str:
    """Lay out the generalization power, and which share of each order's strength is shared.

    Args:
        comparison: The networks.

    Returns:
        Two tables, a line per extraction.
    """
    ks = comparison.ks
    definition = "s_and / s_or: the share of a network's strongest k interactions that are among the k of all networks"
    lines = [definition, _heading(ks)]
    for extraction in comparison.extractions:
        and_, or_ = powers(extraction, ks)
        lines.append(f"{extraction.name:12}" + _pairs(and_, or_))
    lines += ["", f"salient strength by order ({threshold(comparison)}), and the share of it that is shared"]
    lines.append(_heading(range(1, comparison.n_players + 1)) + f"{'all':>14}")
    for extraction in comparison.extractions:
        cells = (f"{_strength(every):>9}{_percent(shared, every):>5}" for every, shared in _with_sums(extraction))
        lines.append(f"{extraction.name:12}" + "".join(cells))
    return "\n".join(lines)


def _pairs(and_: Sequence[float], or_: Sequence[float]) -> str:
    """Write s_and / s_or for each k, a dash where no network has such an interaction."""
    written = [["-" if math.isnan(share) else f"{share:.2f}" for share in kind] for kind in (and_, or_)]
    return "".join(f"{a:>7} /{o:>5}" for a, o in zip(*written, strict=True))


def _strength(value: float) -> str:
    """Write a strength in eight letters at most, in whatever unit the output has."""
    return f"{value:.2f}" if value == 0 or 0.1 <= value < 1e5 else f"{value:.3g}"


def _heading(ks: Sequence[int]) -> str:
    return f"{'':12}" + "".join(f"{f'k={k}':>14}" for k in ks)


def ablation_table(ablation: Sequence[Extraction], ks: Sequence[int]) -> str:
    """Lay out what the penalty α does to sharing and to sparsity, a line per α.

    Args:
        ablation: The extractions, from `ablate`.
        ks: Numbers of strongest interactions.

    Returns:
        s_and / s_or for each k, and the strength and number of salient interactions, means over networks and samples.
    """
    lines = [_heading(ks) + f"{'strength':>12}{'salient':>9}"]
    for extraction in ablation:
        size = torch.stack((extraction.and_, extraction.or_))[..., 1:].abs().sum((0, -1)).mean()
        count = sum(mask.sum(-1).double().mean() for mask in extraction.salient)
        cells = _pairs(*powers(extraction, ks))
        lines.append(f"{extraction.name:12}{cells}{_strength(float(size)):>12}{float(count):>9.1f}")
    return "\n".join(lines)


def repetition_lines(repetition: Repetition, comparison: Comparison, sample: int = 0) -> list[str]:
    """Say how far a second extraction agrees, and name the five strongest of each on one sample."""
    return [
        f"Extracted again from outputs changed by a millionth, {name} has {_share(a)} of its {repetition.k} strongest "
        f"AND interactions again, and {_share(o)} of the OR interactions."
        for name, a, o in zip(comparison.names, repetition.and_, repetition.or_, strict=True)
    ] + [
        f"{name}, {extraction.name}, sample {comparison.samples[sample]}: {_five(extraction, comparison, i, sample)}"
        for i, name in enumerate(comparison.names)
        for extraction in (comparison.alone, repetition.again)
    ]


def _five(extraction: Extraction, comparison: Comparison, network: int, sample: int) -> str:
    effects = torch.stack((extraction.and_[network, sample], extraction.or_[network, sample]))
    size = effects.abs()
    size[:, 0] = -1
    ranked = [i for i in size.flatten().argsort(descending=True, stable=True).tolist() if size.flatten()[i] > 0]
    # A number by itself behind the effect would read as a part of it.
    named = (f"{pattern_name(comparison, sample, i)}: {effects.flatten()[i]:+.2f}" for i in ranked[:5])
    return ", ".join(named) or "no interaction"


def pattern_name(comparison: Comparison, sample: int, pattern: int) -> str:
    """Name the players of an AND interaction, numbered by its coalition, or of an OR interaction, 2^n more."""
    kind, coalition = divmod(pattern, comparison.v.shape[-1])
    return SIGNS["OR" if kind else "AND"].join(comparison.player_name(sample, player) for player in members(coalition))


def threshold(comparison: Comparison) -> str:
    """Say what a salient interaction exceeds."""
    counting = comparison.counting
    unit = "the sample's largest" if counting.unit == "largest" else "the network's mean change of output"
    return f"above {counting.fraction:.3g} of {unit}"


def shared_percentages(extraction: Extraction) -> list[str]:
    """Give the share of each order's strength that is shared, and of the whole; a dash where an order has none."""
    return [_percent(shared, every) for every, shared in _with_sums(extraction)]


def _with_sums(extraction: Extraction) -> list[tuple[float, float]]:
    """Give the strength of each order, of all orders last, and what of it is shared."""
    every, shared = shared_by_order(extraction)
    return [*zip(every, shared, strict=True), (sum(every), sum(shared))]


def verdict(comparison: Comparison) -> str:
    """Say in one sentence where the networks share most beyond what unrelated outputs would."""
    ks = comparison.ks
    if comparison.control is None:
        (and_,), (or_,) = powers(comparison.shared, ks[:1])
        of_and, of_or = _share(and_), _share(or_)
        return f"Of their {ks[0]} strongest AND interactions the networks share {of_and}, of the OR ones {of_or}."
    told, alike = [], []
    each = zip(("AND", "OR"), powers(comparison.shared, ks), powers(comparison.control, ks), strict=True)
    for name, shared, chance in each:
        beyond = [mine - theirs for mine, theirs in zip(shared, chance, strict=True)]
        more = [i for i, difference in enumerate(beyond) if difference >= LEAST_BEYOND]
        if not more:
            alike.append(name)
            continue
        most, last = max(more, key=lambda i: beyond[i]), more[-1]
        end = f", from {ks[last + 1]} on no more" if last + 1 < len(ks) else ""
        told.append((beyond[most], f"{shared[most]:.0%} of the {ks[most]} strongest {name} ({chance[most]:.0%}){end}"))
    if not told:
        return "The networks share no more of their strongest interactions than unrelated outputs do."
    most_first = "; ".join(text for _, text in sorted(told, reverse=True))
    rest = f"; of the {alike[0]} no more than these" if alike else ""
    return f"The networks share, beside unrelated outputs in brackets, {most_first}{rest}."


def findings(comparison: Comparison) -> list[str]:
    """Say in sentences what the tables show.

    Args:
        comparison: The networks.

    Returns:
        The sentences.
    """
    ks = comparison.ks
    alone, shared = (powers(extraction, ks) for extraction in (comparison.alone, comparison.shared))
    sentences = _the_same(comparison) + [
        f"More {name} interactions are shared if extracted together than if alone: {_where(after, before)}."
        for name, before, after in (("AND", alone[0], shared[0]), ("OR", alone[1], shared[1]))
    ]
    if comparison.control is not None:
        chance = powers(comparison.control, ks)
        first, last = ([_share(kind[at]) for pair in (chance, shared) for kind in pair] for at in (0, -1))
        sentences.append(
            f"Together, unrelated outputs share {first[0]} (AND) and {first[1]} (OR) of the strongest {ks[0]}, these "
            f"networks {first[2]} and {first[3]}; of the strongest {ks[-1]}, {last[0]} and {last[1]} against {last[2]} "
            f"and {last[3]}."
        )
    k = ks[min(2, len(ks) - 1)]
    alike = (_share(sign_agreement(extraction, k)) for extraction in (comparison.alone, comparison.shared))
    agreed = [f"{share} {how}" for share, how in zip(alike, ("extracted alone", "together"), strict=True)]
    if comparison.control is not None:
        agreed.append(f"{_share(sign_agreement(comparison.control, k))} for unrelated outputs")
    sentences.append(f"Of what is shared among the strongest {k}, this much has one sign: {', '.join(agreed)}.")
    every, common = shared_by_order(comparison.shared)
    if every[0] and sum(every[1:]):
        sentences.append(
            f"Of the strength of order 1, {common[0] / every[0]:.0%} is shared; of that of higher orders, "
            f"{sum(common[1:]) / sum(every[1:]):.0%}."
        )
    sentences.append(
        f"{len(comparison.samples)} probe samples are compared; the shared extraction is proven to be within "
        f"{comparison.gap.max():.1%} of the optimum."
    )
    return sentences


def write_comparison(comparison: Comparison, folder: Path, *, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures, the table and s_and and s_or, in place of what an earlier call wrote there.

    The scalars have the number k of strongest interactions for their step.

    Args:
        comparison: The networks.
        folder: The TensorBoard run.
        pictures: Its pictures from `comparison_figures.draw_all`.

    Raises:
        OSError: If the folder cannot be written.
    """
    for earlier in folder.glob(f"{EVENTS}*{_EVENTS}"):
        earlier.unlink()
    ks = comparison.ks
    with SummaryWriter(str(folder), filename_suffix=_EVENTS) as writer:
        for key, picture in pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            writer.add_image(f"comparison/{key}", pixels, 0, dataformats="HWC")
        for extraction in comparison.extractions:
            for kind, power in zip(("s_and", "s_or"), powers(extraction, ks), strict=True):
                for k, share in zip(ks, power, strict=True):
                    if not math.isnan(share):  # the OR of an extraction that has none
                        writer.add_scalar(f"comparison/{kind}/{extraction.name.replace(' ', '_')}", share, k)
        found = "\n\n".join(findings(comparison))
        laid_out = table(comparison).replace("\n", "\n    ")
        writer.add_text("comparison/findings", f"{' | '.join(comparison.names)}\n\n{found}\n\n    {laid_out}", 0)


def _the_same(comparison: Comparison) -> list[str]:
    """Warn of networks that are one network: what they share is everything, and says nothing."""
    return [
        f"{comparison.names[i]} (number {i}) and {comparison.names[j]} (number {j}) have the same outputs on every "
        "coalition, so they are the same network: that they share everything says nothing."
        for j in range(len(comparison.names))
        for i in range(j)
        if comparison.v[i].equal(comparison.v[j])
    ]


def _where(larger: Sequence[float], smaller: Sequence[float]) -> str:
    count = sum(a > b for a, b in zip(larger, smaller, strict=True))
    return "at every k shown" if count == len(larger) else f"at {count} of the {len(larger)} k shown"


def _share(share: float) -> str:
    return "none" if math.isnan(share) else f"{share:.0%}"


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"
