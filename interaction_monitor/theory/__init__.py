"""What the theory of Ren et al. 2024 predicts for a run, from the interactions of its final network."""

from interaction_monitor.theory.and_or import Prediction, predict_and_or, predicted_strength
from interaction_monitor.theory.closed_form import norm_ratio, predict, row_norms
from interaction_monitor.theory.fit import Distance, SigmaFit, fit_sigma2, jensen_shannon

__all__ = [
    "Distance",
    "Prediction",
    "SigmaFit",
    "fit_sigma2",
    "jensen_shannon",
    "norm_ratio",
    "predict",
    "predict_and_or",
    "predicted_strength",
    "row_norms",
]
