"""The file `progress.json`: how far the run had come when it last said so.

It is asked only where a run is resumed: are the rows behind a checkpoint those of the same run, which was killed
before it could write the next one, or is somebody going another way from there?
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from interaction_monitor.record.storage import RecordError, read_text, write_bytes

NAME = "progress.json"
_LIMIT = 4096


@dataclass(frozen=True)
class Progress:
    """What a run is known to have done.

    Example:
        >>> Progress(checkpoint=40).goes_on_from(40), Progress(checkpoint=40).goes_on_from(20)
        (True, False)
    """

    checkpoint: int | None = None  # optimizer steps at the newest checkpoint; None where none is known
    finished: bool = False  # whether training came to its end

    def goes_on_from(self, step: int) -> bool:
        """Tell whether a run resumed at this step replaces what was measured after it."""
        return not self.finished and self.checkpoint is not None and step >= self.checkpoint


def write_progress(folder: Path, progress: Progress) -> None:
    """Put `progress.json` in place.

    Raises:
        OSError: If it cannot be written.
    """
    write_bytes(folder / NAME, (json.dumps(asdict(progress)) + "\n").encode())


def read_progress(folder: Path) -> Progress:
    """Read `progress.json`; what is missing or damaged is a run of which nothing is known."""
    try:
        found = json.loads(read_text(folder / NAME, limit=_LIMIT))
        checkpoint, finished = found["checkpoint"], found["finished"]
    except (RecordError, ValueError, RecursionError, TypeError, KeyError):
        return Progress()
    known = type(checkpoint) is int and type(finished) is bool
    return Progress(checkpoint, finished) if known else Progress()
