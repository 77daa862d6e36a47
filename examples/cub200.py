"""Watch AlexNet or VGG-16 learn CUB-200-2011's birds, cropped by their boxes, of which some are wrongly labelled.

python -m examples.cub200 --data FOLDER
python -m examples.cub200 --data FOLDER --full    # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import photographs, training
from examples.datasets import cub200

FULL = training.Size(wrong_labels=0.05)


def main(command: list[str] | None = None) -> None:
    photographs.watch(__doc__, cub200, full=FULL, command=command)


if __name__ == "__main__":
    main()
