"""The events that a subscription takes, by channel, namespace and depth, as in the SDK. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.streams.edge.deliver.frames import ProtocolEvent

CHANNELS = frozenset(
    {
        "values",
        "updates",
        "messages",
        "tools",
        "lifecycle",
        "input",
        "checkpoints",
        "tasks",
        "custom",
    }
)
NAMESPACES_MAX = 256
CHANNELS_MAX = 64
DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Filter:
    """Channels, namespace prefixes (none: all), and the depth below a prefix (None: any)."""

    channels: frozenset[str]
    namespaces: tuple[tuple[str, ...], ...] = ()
    depth: int | None = None

    def takes(self, event: ProtocolEvent) -> bool:
        """Return whether the subscription takes an event."""
        channel = event.channel
        if channel not in self.channels and not (
            channel.startswith("custom:") and "custom" in self.channels
        ):
            return False
        return (not self.namespaces and self.depth is None) or self._near(event.namespace)

    def _near(self, namespace: tuple[str, ...]) -> bool:
        return any(
            _is_prefix(prefix, namespace)
            and (self.depth is None or len(namespace) - len(prefix) <= self.depth)
            for prefix in self.namespaces or ((),)
        )

    @classmethod
    def of(cls, params: Mapping[str, object]) -> Filter:
        """Return the filter of a subscription's params; raises `InvalidRequestError`."""
        channels = params.get("channels")
        if (
            not isinstance(channels, list)
            or not 1 <= len(channels) <= CHANNELS_MAX
            or not all(isinstance(name, str) and _is_channel(name) for name in channels)
        ):
            raise InvalidRequestError(
                f"channels must be a list of: {', '.join(sorted(CHANNELS))}, custom:<name>",
                code="invalid_channels",
                field="channels",
            )
        return cls(frozenset(channels), _namespaces(params), _depth(params))


def _is_channel(name: str) -> bool:
    return name in CHANNELS or (name.startswith("custom:") and len(name) > len("custom:"))


def _namespaces(params: Mapping[str, object]) -> tuple[tuple[str, ...], ...]:
    namespaces = params.get("namespaces")
    if namespaces is None:
        return ()
    if (
        not isinstance(namespaces, list)
        or len(namespaces) > NAMESPACES_MAX
        or not all(
            isinstance(space, list)
            and len(space) <= DEPTH_MAX
            and all(isinstance(part, str) for part in space)
            for space in namespaces
        )
    ):
        raise InvalidRequestError(
            f"namespaces must be a list of at most {NAMESPACES_MAX} lists of strings",
            code="invalid_namespaces",
            field="namespaces",
        )
    return tuple(tuple(space) for space in namespaces)


def _depth(params: Mapping[str, object]) -> int | None:
    depth = params.get("depth")
    if depth is None:
        return None
    if not isinstance(depth, int) or isinstance(depth, bool) or not 0 <= depth <= DEPTH_MAX:
        raise InvalidRequestError(
            f"depth must be 0 to {DEPTH_MAX}", code="invalid_depth", field="depth"
        )
    return depth


def _is_prefix(prefix: tuple[str, ...], namespace: tuple[str, ...]) -> bool:
    """Compare segment by segment; one without `:` matches every task of its node."""
    if len(prefix) > len(namespace):
        return False
    return all(
        have == want or (":" not in want and have.partition(":")[0] == want)
        for want, have in zip(prefix, namespace, strict=False)
    )
