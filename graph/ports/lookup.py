"""Services that the nodes of a native graph find in the context of their turn, by typed ports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S")


class Port(Generic[S]):
    """Names a service; `S` is the Protocol that the service implements.

    The module that declares the Protocol makes the one port of it.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a process, one for each port."""

    _by_port: Mapping[Port[Any], Any] = field(default_factory=dict)

    def adding(self, port: Port[S], service: S) -> Self:
        """Return these services and one more."""
        return type(self)({**self._by_port, port: service})

    def __getitem__(self, port: Port[S]) -> S:
        """Return the service of a port; raises `ConfigurationError` where there is none."""
        try:
            service: S = self._by_port[port]
        except KeyError:
            known = ", ".join(sorted(one.name for one in self._by_port)) or "none"
            raise ConfigurationError(
                f"this process has no service {port.name!r}; its services: {known}"
            ) from None
        return service
