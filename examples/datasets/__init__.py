"""The data of the examples: from installed packages, or from a folder with public data sets.

The folder is what `--data` names; `docs/examples.md` says what to put there. Every set is a `Data`: training and test
set of tensors, (x, y) each, and the names of the classes.
"""

from examples.datasets._data import Data
from examples.datasets.images import cifar10, mnist, mnist3, mnist3_parts, mnist_5k, sklearn_digits
from examples.datasets.pictures import cub200, tiny_imagenet
from examples.datasets.points import modelnet10, shapenet
from examples.datasets.tables import breast_cancer
from examples.datasets.text import Prompt, squad, sst2, sst2_sentences

__all__ = [
    "Data",
    "Prompt",
    "breast_cancer",
    "cifar10",
    "cub200",
    "mnist",
    "mnist3",
    "mnist3_parts",
    "mnist_5k",
    "modelnet10",
    "shapenet",
    "sklearn_digits",
    "squad",
    "sst2",
    "sst2_sentences",
    "tiny_imagenet",
]
