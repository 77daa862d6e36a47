"""Watch VGG-16 or AlexNet learn 50 of Tiny-ImageNet's classes.

python -m examples.tiny_imagenet --data FOLDER --network vgg16
python -m examples.tiny_imagenet --data FOLDER --network vgg16 --full    # the papers' settings, for a GPU
"""

from __future__ import annotations

from examples import photographs, training
from examples.datasets import tiny_imagenet


def main(command: list[str] | None = None) -> None:
    photographs.watch(__doc__, tiny_imagenet, full=training.PAPERS, command=command)


if __name__ == "__main__":
    main()
