"""Remembering what happens in a forward, past the measurement: lists that a model reaches are put back after it."""

from queue import SimpleQueue


class Tally:
    """What was noted, in order. Python cannot see into the queue that holds it, so nothing of it is put back."""

    def __init__(self):
        self._queue = SimpleQueue()

    def append(self, item):
        self._queue.put(item)

    @property
    def items(self):
        found = [self._queue.get() for _ in range(self._queue.qsize())]
        for item in found:
            self._queue.put(item)
        return found

    def clear(self):
        while self._queue.qsize():
            self._queue.get()

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return self._queue.qsize()

    def __getitem__(self, place):
        return self.items[place]

    def __eq__(self, other):
        return self.items == list(other)

    __hash__ = None
