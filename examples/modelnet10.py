"""Watch a small DGCNN learn ModelNet10 point clouds, with clusters of points as players.

python -m examples.modelnet10 --data FOLDER
python -m examples.modelnet10 --data FOLDER --full    # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import training
from examples.datasets import modelnet10
from examples.networks import DynamicGraph
from interaction_monitor.players import PointClusters

SMALL = {"dgcnn": training.Size(epochs=32, train=1000, players=8, samples=15)}
FULL = training.Size(epochs=512)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command)
    with training.refusals():
        data = modelnet10(
            options.data,
            n_points=512 if options.full else 128,
            n_train=options.train,
            wrong_labels=options.wrong_labels,
            seed=options.seed,
        )
    network = (
        DynamicGraph(width=64, n_neighbours=20, whole=True) if options.full else DynamicGraph(width=16, n_neighbours=8)
    )
    with training.refusals():
        clusters = PointClusters(n_clusters=30, n_players=options.players)
    training.watch(network, data, clusters, options)


if __name__ == "__main__":
    main()
