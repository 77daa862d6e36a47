"""Tables."""

from __future__ import annotations

import torch

from examples.datasets._data import Data, make, split


def breast_cancer(*, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0) -> Data:
    """Load scikit-learn's breast cancer table: 30 columns with mean 0 and variance 1, 569 rows, 169 for testing."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    train, test = split(torch.tensor(table.data), torch.tensor(table.target, dtype=torch.long), n_test=169)
    mean, scale = train[0].mean(dim=0), train[0].std(dim=0)
    return make(
        (((train[0] - mean) / scale).float(), train[1]),
        (((test[0] - mean) / scale).float(), test[1]),
        tuple(map(str, table.target_names)),
        n_train=n_train,
        wrong_labels=wrong_labels,
        seed=seed,
    )
