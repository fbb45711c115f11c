"""A saver call as the rows that it inserts, in the form of `langgraph-checkpoint-postgres`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from langgraph.checkpoint.base import WRITES_IDX_MAP, get_serializable_checkpoint_metadata
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from turnstream.connectors.postgres.checkpoints.commit_queue import Item
from turnstream.connectors.postgres.checkpoints.statements import (
    BlobRow,
    CheckpointRow,
    Rows,
    WriteRow,
)
from turnstream.schemas.text import clean_text, storable_text
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from turnstream.connectors.postgres.checkpoints.hold import RunFacts

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"
ERROR = "__error__"
# only other writes make a task finished; langgraph has no public name for the second
UNFINISHED_CHANNELS = frozenset({ERROR, "__error_source_node__", "__interrupt__", "__resume__"})


@dataclass(frozen=True, slots=True)
class Items:
    """Makes a saver's calls into items; in a session, with the path that each of them keeps."""

    serde: SerializerProtocol
    run: RunFacts | None = None

    def checkpoint(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Item:
        """Return a checkpoint's item: short values inline, others as blobs, as the stock saver."""
        configurable = config["configurable"]
        ns = configurable["checkpoint_ns"]
        inline: dict[str, Any] = {}
        blobs: list[BlobRow] = []
        for channel, value in checkpoint["channel_values"].items():
            if _fits_inline(value):
                inline[channel] = value
                continue
            if isinstance(value, _DeltaSnapshot):
                inline[channel] = True
            if channel in new_versions:
                kind, blob = self.serde.dumps_typed(value)
                blobs.append(BlobRow(ns, channel, str(new_versions[channel]), kind, blob))
        row = CheckpointRow(
            ns,
            checkpoint["id"],
            configurable.get("checkpoint_id"),
            _json({**checkpoint, "channel_values": inline}),
            _json(get_serializable_checkpoint_metadata(config, metadata)),
        )
        path = f"{self.run.path_of(ns)}|" if self.run is not None and ns else ""
        return Item(
            ns=ns,
            rows=Rows(blobs=blobs, checkpoints=[row]),
            keep=path,
            root=not ns,
            checkpoint_id=checkpoint["id"],
        )

    def writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> Item:
        """Return the item of a task's writes, with the places that the stock saver gives them."""
        configurable = config["configurable"]
        ns, checkpoint_id = configurable["checkpoint_ns"], configurable["checkpoint_id"]
        rows = []
        for index, (channel, value) in enumerate(writes):
            # readers of the state may see an error's class, but not its text
            if channel == ERROR and isinstance(value, BaseException):
                value = class_name(value)  # noqa: PLW2901
            kind, blob = self.serde.dumps_typed(value)
            place = WRITES_IDX_MAP.get(channel, index)
            rows.append(WriteRow(ns, checkpoint_id, task_id, task_path, place, channel, kind, blob))
        path = ""
        if (
            self.run is not None
            and task_id != NULL_TASK_ID
            and any(channel not in UNFINISHED_CHANNELS for channel, _ in writes)
        ):
            path = f"{self.run.path_of(ns)}|{task_id}" if ns else task_id
        return Item(
            ns=ns, rows=Rows(writes=rows), keep=path, checkpoint_id=checkpoint_id, task=True
        )


def _fits_inline(value: object) -> bool:
    """Return whether jsonb can hold the value: it has no NUL, no lone surrogate, no NaN."""
    if isinstance(value, str):
        return "\x00" not in value and (value.isascii() or clean_text(value) is value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (int, bool))


def _json(value: object) -> str:
    """Return JSON that jsonb takes: NUL and lone surrogates in strings become U+FFFD."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, UnicodeEncodeError):
        encoded = msgspec.json.encode(_plain(value))
    except OverflowError:
        return json.dumps(_plain(value), ensure_ascii=False)  # integers of any size
    if b"\\u0000" in encoded:
        encoded = msgspec.json.encode(_plain(value))
    return encoded.decode()


def _plain(value: object) -> object:
    """Return the value made of JSON's own types, with strings that jsonb takes."""
    if isinstance(value, str):
        return storable_text(str(value))
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
