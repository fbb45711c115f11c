"""The newest part of the log in memory: raw fetched batches, bounded by bytes, decoded on demand.

Each fetched piece of a partition is stored with the keys in it, so that the records of one thread
are found without reading the others'. Above the bound the ring evicts the oldest pieces of all
partitions. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import deque

from turnstream.connectors.kafka.read.batches import batch_records

PIECE_OVERHEAD_BYTES = 256
"""Bytes that a piece of a few keys costs beside its own: its objects, its places in the index."""
KEY_OVERHEAD_BYTES = 900
"""Bytes that a key costs in the index, in any number of pieces (`test_what_is_counted_is_used`)."""


class _Key:
    """A key, and the pieces that hold records of it, oldest first."""

    __slots__ = ("key", "pieces")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.pieces: deque[_Piece] = deque()


class _Piece:
    """The bytes that one fetch gave of one partition: offsets `first` up to, without, `end`."""

    __slots__ = ("end", "first", "keys", "raw")

    def __init__(self, first: int, end: int, raw: bytes, keys: tuple[_Key, ...]) -> None:
        self.first = first
        self.end = end
        self.raw = raw
        self.keys = keys


class _Partition:
    __slots__ = ("begins", "by_key", "end", "pieces")

    def __init__(self, begins: int) -> None:
        self.begins = begins
        self.end = begins
        self.pieces: deque[_Piece] = deque()
        self.by_key: dict[bytes, _Key] = {}

    def keys(self, keys: set[bytes]) -> tuple[_Key, ...]:
        """Return the index's entry of each key, so that a piece holds no copy of the key."""
        by_key = self.by_key
        found = []
        for key in keys:
            entry = by_key.get(key)
            if entry is None:
                entry = by_key[key] = _Key(key)
            found.append(entry)
        return tuple(found)


class Ring:
    """Pieces of all partitions, `bytes_max` together."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._partitions: dict[int, _Partition] = {}
        self._order: deque[int] = deque()

    def restart(self, partition: int, begins: int) -> None:
        """Drop a partition's pieces and go on at an offset that does not follow the last."""
        old = self._partitions.get(partition)
        if old is not None:
            self.bytes -= sum(_cost(piece) for piece in old.pieces)
            self.bytes -= len(old.by_key) * KEY_OVERHEAD_BYTES
            self._order = deque(number for number in self._order if number != partition)
        self._partitions[partition] = _Partition(begins)

    def add(self, partition: int, end: int, raw: bytes, keys: set[bytes]) -> None:
        """Append the bytes from the partition's end up to `end`, with the keys in them."""
        home = self._partitions[partition]
        known = len(home.by_key)
        piece = _Piece(home.end, end, raw, home.keys(keys))
        home.pieces.append(piece)
        home.end = end
        for entry in piece.keys:
            entry.pieces.append(piece)
        self._order.append(partition)
        self.bytes += _cost(piece) + (len(home.by_key) - known) * KEY_OVERHEAD_BYTES
        while self.bytes > self.bytes_max and len(self._order) > 1:
            self._evict(self._order.popleft())

    def _evict(self, partition: int) -> None:
        home = self._partitions[partition]
        piece = home.pieces.popleft()
        home.begins = piece.end
        self.bytes -= _cost(piece)
        for entry in piece.keys:
            entry.pieces.popleft()
            if not entry.pieces:
                del home.by_key[entry.key]
                self.bytes -= KEY_OVERHEAD_BYTES

    def begins(self, partition: int) -> int:
        """Return the first offset from which the ring holds every record."""
        return self._partitions[partition].begins

    def end(self, partition: int) -> int:
        """Return the offset after the last piece; 0 for a partition that was never read."""
        home = self._partitions.get(partition)
        return 0 if home is None else home.end

    def held(
        self, partition: int, key: bytes, first: int, limit: int
    ) -> list[tuple[int, bytes]] | None:
        """Return up to `limit` (offset, value) of the key from `first` on; None if not held."""
        home = self._partitions.get(partition)
        if home is None or first < home.begins:
            return None
        found: list[tuple[int, bytes]] = []
        entry = home.by_key.get(key)
        for piece in entry.pieces if entry is not None else ():
            if piece.end <= first:
                continue
            for offset, record_key, value in batch_records(piece.raw, max(first, piece.first)):
                if record_key == key and value is not None:
                    found.append((offset, value))
            if len(found) >= limit:
                break
        return found


def _cost(piece: _Piece) -> int:
    return len(piece.raw) + PIECE_OVERHEAD_BYTES
