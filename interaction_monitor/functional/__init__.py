"""Pure tensor mathematics of interactions: no Lightning, no files, no models."""

from interaction_monitor.functional.distribution import (
    MeanOrderInterval,
    ShareInterval,
    first_high_order,
    high_order_share,
    mean_order,
    mean_order_influence,
    mean_order_interval,
    order_distribution,
)
from interaction_monitor.functional.extraction import (
    SharedAndOr,
    SparsestAndOr,
    ToleranceNotMetWarning,
    order_one_as_and,
    shared_and_or,
    sparsest_and_or,
)
from interaction_monitor.functional.faithfulness import (
    matching_error,
    matching_precision,
    matching_precision_curve,
    shapley_values,
    sparsity_curve,
)
from interaction_monitor.functional.generalizing import (
    GeneralizingParts,
    Turnover,
    generalizing_parts,
    generalizing_share,
    generalizing_strength,
    order_turnover,
)
from interaction_monitor.functional.interactions import (
    and_interactions,
    and_outputs,
    coalition,
    highest_bit_first,
    members,
    n_players,
    noise_floor,
    or_interactions,
    or_outputs,
    orders,
)
from interaction_monitor.functional.saliency import (
    order_effects,
    order_similarity,
    order_strength,
    saliency_threshold,
    salient_counts,
    salient_outputs,
)
from interaction_monitor.functional.sharing import (
    OrderSharing,
    generalization_curve,
    generalization_power,
    order_sharing,
    overlap,
    salient,
    strongest,
)

__all__ = [
    "GeneralizingParts", "MeanOrderInterval", "OrderSharing", "ShareInterval", "SharedAndOr", "SparsestAndOr",
    "ToleranceNotMetWarning", "Turnover", "and_interactions", "and_outputs", "coalition", "first_high_order",
    "generalization_curve", "generalization_power", "generalizing_parts", "generalizing_share",
    "generalizing_strength", "high_order_share", "highest_bit_first", "matching_error", "matching_precision",
    "matching_precision_curve", "mean_order", "mean_order_influence", "mean_order_interval", "members", "n_players",
    "noise_floor", "or_interactions", "or_outputs", "order_distribution", "order_effects", "order_one_as_and",
    "order_sharing", "order_similarity", "order_strength", "order_turnover", "orders", "overlap", "saliency_threshold",
    "salient", "salient_counts", "salient_outputs", "shapley_values", "shared_and_or", "sparsest_and_or",
    "sparsity_curve", "strongest",
]  # fmt: skip
