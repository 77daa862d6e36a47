"""Taking back what a run wrote to TensorBoard after the checkpoint from which it is resumed.

Event files only grow. Their readers drop what a restart made obsolete, but by TensorBoard's present rule that is
everything from one step on, other people's curves too. By its older rule, for files of version 1, an event with a lower
step than the one before it drops the later ones of its own tags. So a few lines in that version, which hold tags but no
values, take back just these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LATE = 2**62  # a step that is later than any


def rewind(writer: SummaryWriter, tags: Mapping[str, str], *, steps: Mapping[str, int], step: int) -> None:
    """Have readers of the writer's folder drop what was written before under some tags, from a step on.

    Args:
        writer: the resumed run's, at its beginning.
        tags: every tag, with the name of the plugin that shows it.
        steps: the first step to drop, for tags with steps of their own.
        step: the first step to drop for all the others.
    """
    file = writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    file.add_event(Event(file_version="brain.Event:1"), step=0)
    file.add_event(Event(summary=Summary()), step=_LATE)
    for first in sorted({step, *steps.values()}, reverse=True):  # each lower than the one before it
        # Without its plugin, a reader would not know how to show what comes under the tag later.
        values = [
            Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin)))
            for tag, plugin in tags.items()
            if steps.get(tag, step) == first
        ]
        file.add_event(Event(summary=Summary(value=values)), step=first)
    file.add_event(Event(file_version="brain.Event:2"), step=0)
