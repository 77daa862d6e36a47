"""Pure tensor mathematics of interactions: no Lightning, no files, no models."""

from interaction_monitor.functional.coalitions import coalition, highest_bit_first, members, n_players, orders
from interaction_monitor.functional.faithfulness import (
    matching_error,
    matching_precision,
    matching_precision_curve,
    shapley_values,
    sparsity_curve,
)
from interaction_monitor.functional.generalization import (
    OrderSharing,
    generalization_curve,
    generalization_power,
    order_sharing,
    overlap,
    salient,
    strongest,
)
from interaction_monitor.functional.generalizing import (
    GeneralizingParts,
    generalizing_parts,
    generalizing_share,
    generalizing_strength,
)
from interaction_monitor.functional.intervals import (
    MeanOrderInterval,
    ShareInterval,
    mean_order_influence,
    mean_order_interval,
)
from interaction_monitor.functional.salient_orders import (
    first_high_order,
    high_order_share,
    mean_order,
    noise_floor,
    order_distribution,
    order_strength,
    saliency_threshold,
    salient_counts,
)
from interaction_monitor.functional.shared import SharedAndOr, shared_and_or
from interaction_monitor.functional.sparsest import SparsestAndOr, ToleranceNotMetWarning, sparsest_and_or
from interaction_monitor.functional.transforms import (
    and_interactions,
    and_outputs,
    or_interactions,
    or_outputs,
)
from interaction_monitor.functional.turnover import Turnover, order_effects, order_similarity, order_turnover

__all__ = [
    "GeneralizingParts",
    "MeanOrderInterval",
    "OrderSharing",
    "ShareInterval",
    "SharedAndOr",
    "SparsestAndOr",
    "ToleranceNotMetWarning",
    "Turnover",
    "and_interactions",
    "and_outputs",
    "coalition",
    "first_high_order",
    "generalization_curve",
    "generalization_power",
    "generalizing_parts",
    "generalizing_share",
    "generalizing_strength",
    "high_order_share",
    "highest_bit_first",
    "matching_error",
    "matching_precision",
    "matching_precision_curve",
    "mean_order",
    "mean_order_influence",
    "mean_order_interval",
    "members",
    "n_players",
    "noise_floor",
    "or_interactions",
    "or_outputs",
    "order_distribution",
    "order_effects",
    "order_sharing",
    "order_similarity",
    "order_strength",
    "order_turnover",
    "orders",
    "overlap",
    "saliency_threshold",
    "salient",
    "salient_counts",
    "shapley_values",
    "shared_and_or",
    "sparsest_and_or",
    "sparsity_curve",
    "strongest",
]
