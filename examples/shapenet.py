"""Watch DGCNN learn the kinds of ShapeNet's shapes, with clusters of points as players.

python -m examples.shapenet --data FOLDER
python -m examples.shapenet --data FOLDER --full    # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import training
from examples.datasets import shapenet
from examples.networks import DynamicGraph
from interaction_monitor.players import PointClusters

SMALL = {"dgcnn": training.Size(epochs=32, train=1000, players=8, samples=15)}
FULL = training.Size(epochs=512)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command)
    with training.refusals():
        data = shapenet(
            options.data,
            n_points=1024 if options.full else 128,
            n_train=options.train,
            wrong_labels=options.wrong_labels,
            seed=options.seed,
        )
    sizes = {"width": 64, "n_neighbours": 20, "whole": True} if options.full else {"width": 16, "n_neighbours": 8}
    with training.refusals():
        clusters = PointClusters(n_clusters=30, n_players=options.players)
    training.watch(DynamicGraph(len(data.classes), **sizes), data, clusters, options)


if __name__ == "__main__":
    main()
