"""What the request of a run may ask for, on every surface. Pure.

A field that asks for something unsupported is refused by its name, never ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Collection

# what a caller may not set: it is ours, or LangGraph's own
OWN_KEYS = ("thread_id", "run_id", "checkpoint_ns", "checkpoint_map", "assistant_id", "graph_id")


def refuse(**fields: object) -> None:
    """Raise `InvalidRequestError` (`unsupported`) for the first field that asks for something."""
    for name, value in fields.items():
        if value not in (None, [], {}, "", 0, False):
            raise InvalidRequestError(
                f"{name} is not supported: leave it out", code="unsupported", field=name
            )


def refuse_unsupported(
    *,
    interrupt_before: object = None,
    interrupt_after: object = None,
    webhook: object = None,
    after_seconds: object = None,
    on_completion: object = None,
) -> None:
    """Refuse fields that no run supports yet, by their names."""
    refuse(
        interrupt_before=interrupt_before,
        interrupt_after=interrupt_after,
        webhook=webhook,
        after_seconds=after_seconds,
        on_completion=None if on_completion == "keep" else on_completion,
    )


def check_input(value: object) -> None:
    """Raise `InvalidRequestError` (`input_missing`) for a run that is given nothing to begin with.

    A start with null would close the thread's open question without an answer.
    """
    if value in (None, ""):
        raise InvalidRequestError(
            "give input (or command.resume to answer a question)",
            code="input_missing",
            field="input",
        )


SUBGRAPHS = "stream_subgraphs"
"""In a run's config: it was started to show nested graphs, so streams that join it do as well."""

MODES = "stream_mode"
"""In a run's config: the modes that it was started with, for streams that join it."""


def own_config(
    config: dict[str, object] | None,
    context: dict[str, object] | None = None,
    *,
    subgraphs: bool = False,
    modes: Collection[str] = (),
) -> dict[str, object] | None:
    """Return the config with the run's context in it, and without what is ours.

    Raises `InvalidRequestError` for a fork.
    """
    given = {"context": context} if context else {}
    shows: dict[str, object] = {SUBGRAPHS: True} if subgraphs else {}
    if modes:
        shows[MODES] = sorted(modes)
    config = {**(config or {}), **given, **shows}
    if not config:
        return None
    configurable = config.get("configurable")
    if not isinstance(configurable, dict):
        return config  # the rules for commands say what else it may be
    refuse(**{"config.configurable.checkpoint_id": configurable.get("checkpoint_id")})
    own = {
        name: value
        for name, value in configurable.items()
        if not name.startswith("__") and name not in OWN_KEYS and name != "checkpoint_id"
    }
    return {**config, "configurable": own}
