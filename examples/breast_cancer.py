"""Watch a perceptron learn to tell tumours apart by ten of their measures, with some wrong labels.

python -m examples.breast_cancer    # about two minutes on a core; the data come with scikit-learn
"""

from __future__ import annotations

from examples import training
from examples.datasets import breast_cancer
from examples.networks import Perceptron
from interaction_monitor.players import Columns

SIZE = training.Size(wrong_labels=0.05)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, {"perceptron": SIZE}, full=SIZE, command=command)
    with training.refusals():
        data = breast_cancer(n_train=options.train, wrong_labels=options.wrong_labels, seed=options.seed)
        # Every measure of a cell comes as its mean, its spread and its worst value: one player each.
        measures = [(measure, measure + 10, measure + 20) for measure in range(10)]
        training.enough("--players", options.players, measures, "measures")
    columns = Columns(measures[: options.players], baseline=data.train.tensors[0].mean(dim=0))
    training.watch(Perceptron(30), data, columns, options)


if __name__ == "__main__":
    main()
