"""Commands of clients as an edge reads them: each is taken, or refused with an error of ours."""

from __future__ import annotations

import json
import random
import time
from typing import Any, cast

import pytest

from turnstream.schemas.errors import InvalidRequestError, TurnstreamError
from turnstream.schemas.limits import INT_MAX
from turnstream.schemas.records.command_rules import IDENTITY_KEYS, CommandLimits
from turnstream.streams.edge.ask import commands
from turnstream.streams.edge.ask.run_request import check_input
from turnstream.streams.edge.ask.submit import Asked, Submit
from turnstream.streams.edge.deliver.filters import Filter
from turnstream.streams.edge.follow.cursor import Cursor, cursor_of
from turnstream.streams.edge.routes.plain_dialect import frame_of
from turnstream.streams.edge.routes.reading import check_body, json_list
from turnstream.streams.edge.server.auth import Principal

KIM = Principal(tenant="acme", user="kim")


def submit(**limits: Any) -> Submit:
    """Return one that makes commands and sends none."""
    nowhere = cast("Any", None)
    return Submit(nowhere, nowhere, nowhere, limits=CommandLimits(**limits))


@pytest.mark.parametrize("user", ["x" * 501, "a\x00", "\ud83d"])
def test_a_token_whose_subject_no_worker_takes_starts_nothing(user: str) -> None:
    caller = Principal(tenant="acme", user=user)
    for make in (
        lambda: submit().start_of(caller, Asked(thread_id="t"), text="x"),
        lambda: submit().resume_of(caller, Asked(thread_id="t"), {"a": 1}),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            make()
        assert (refused.value.code, refused.value.field) == ("invalid_actor", "actor")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"idempotency_key": "a\ufffd"}, "invalid_idempotency_key"),
        ({"idempotency_key": "x" * 501}, "invalid_idempotency_key"),
        ({"correlation_id": "x" * 501}, "invalid_correlation_id"),
        ({"traceparent": "\x00"}, "invalid_traceparent"),
        ({"graph": "\ud83d"}, "invalid_graph"),
        ({"turn_id": "1"}, "invalid_turn_id"),
        ({"turn_id": "", "config": {"configurable": {"model": 1}}}, "configurable_locked"),
    ],
)
def test_what_a_worker_refuses_an_edge_refuses(fields: dict[str, Any], code: str) -> None:
    asked = Asked(thread_id="t", **fields)
    with pytest.raises(InvalidRequestError) as refused:
        submit(locked=frozenset({"model"})).start_of(KIM, asked, text="x")
    assert refused.value.code == code


def test_a_role_that_is_no_text_is_refused_by_name() -> None:
    caller = Principal("acme", "kim", frozenset({"\ud83d"}))
    with pytest.raises(InvalidRequestError) as refused:
        submit().start_of(caller, Asked(thread_id="t"), text="x")
    assert (refused.value.code, refused.value.field) == ("invalid_config", "config")


def test_a_lock_never_refuses_the_caller_that_the_edge_itself_names() -> None:
    locks = submit(locked=frozenset({"model", *IDENTITY_KEYS}))
    kim = Principal(tenant="acme", user="kim", verified=True)
    asked = Asked(thread_id="t", config={"configurable": {"roles": ["root"]}})
    command = locks.start_of(kim, asked, text="x")
    assert json.loads(command.config)["configurable"]["roles"] == []


# -- any bytes -----------------------------------------------------------------------------------

WORDS: list[Any] = [
    *(None, True, 0, -1, 5.0, 1e300, 2**63, 2**70, 10**400, INT_MAX, "", "x", "\ud83d", "\x00"),
    *([], {}, [[]], [["a"]], [1], {"a": {}}, ["values"], ["custom:x"], "agent", "enqueue"),
    *("run.start", "chat", "resume", "cancel", "subscribe", "ping"),
    *({"configurable": 1}, {"configurable": {"a": 1}}),
]
NAMES = [
    *("id", "method", "params", "type", "thread_id", "run_id", "text", "graph", "on_busy"),
    *("idempotency_key", "expires_at", "answers", "since", "rollback", "assistant_id", "input"),
    *("config", "metadata", "context", "multitask_strategy", "checkpoint_id", "command"),
    *("interruptBefore", "webhook", "channels", "namespaces", "depth"),
]


def some(rng: random.Random, depth: int = 0) -> Any:
    value = rng.choice(WORDS)
    for _ in range(rng.choice([0, 0, 0, 0, 3, 70, 300])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    if depth < 2 and rng.random() < 0.4:
        value = {rng.choice(NAMES): some(rng, depth + 1) for _ in range(rng.randrange(6))}
    return value


def some_bytes(rng: random.Random) -> bytes:
    value = some(rng)
    if isinstance(value, dict) and rng.random() < 0.7:
        value = {"id": 1, "method": "run.start", "type": "chat", "params": some(rng)} | value
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.randrange(3)) + data[at + rng.randrange(3) :]
    return data


def read(data: bytes, rng: random.Random) -> int:
    """Read bytes as each surface does; return how many took them."""

    def command() -> None:
        params = commands.parse_command(data).params
        commands._refuse_unsupported(params)
        check_input(params.get("input", {}))
        submit().start_of(
            KIM,
            Asked(
                thread_id="t",
                config=commands._config(params),
                metadata=commands._object(params, "metadata"),
                expires_at=commands._expires_at(params),
            ),
            input=params.get("input", {}),
            on_busy=commands._on_busy(params),
        )

    def subscription() -> None:
        params = commands.parse_command(data).params
        Filter.of(params)
        cursor_of(params, None)

    text = data.decode("utf-8", "replace")
    surfaces = (
        command,
        subscription,
        lambda: frame_of(text if rng.random() < 0.5 else data),
        lambda: check_body(data),
        lambda: json_list(text),
        lambda: Cursor.parse(text),
    )
    taken = 0
    for surface in surfaces:
        try:
            surface()
        except TurnstreamError as error:
            assert error.status in {400, 413, 422}, error
            continue
        taken += 1
    return taken


def fuzz(seed: int, seconds: float, most: int) -> tuple[int, int]:
    """Return how many inputs were read, and how often one was taken."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    tried = taken = 0
    while tried < most and time.monotonic() < until:
        data = some_bytes(rng)
        tried += 1
        try:
            taken += read(data, rng)
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {tried}: {data!r}") from error
    return tried, taken


def test_any_bytes_are_taken_or_refused_with_an_error_of_ours() -> None:
    tried, taken = fuzz(seed=7, seconds=8.0, most=2500)
    assert tried > 100
    assert taken > 0
