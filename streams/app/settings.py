"""Settings: one frozen class, the only reader of the environment (`TURNSTREAM_*`) and `.env`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_origin

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
)

from turnstream.schemas.errors import ConfigurationError
from turnstream.schemas.records.command_rules import CommandLimits
from turnstream.schemas.topics import EVENT_BYTES_MAX, Topics
from turnstream.streams.app.variables import PREFIX, unknown_names

if TYPE_CHECKING:
    from pydantic import ValidationInfo


class Settings(BaseSettings):
    """Everything that can be set; `turnstream config show` prints it with its source."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        enable_decoding=False,  # see `_decoded`
        extra="ignore",
        frozen=True,
    )

    # Kafka
    kafka_bootstrap: str = Field(
        "", description="brokers, as a list of host:port; empty: the local stack's"
    )
    topic_prefix: str = Field("", description="prefix of the name of every topic")
    tenants: tuple[str, ...] = Field(
        ("default",), description="tenants with topics turns.<tenant> and turn-results.<tenant>"
    )
    json_result_tenants: tuple[str, ...] = Field(
        (), description="tenants whose results are JSON instead of Avro"
    )
    partitions: int = Field(
        24, ge=1, le=10_000, description="partitions of each topic that is created"
    )
    replication: int = Field(
        0,
        ge=0,
        description="replicas of each topic that is created, of which all but one must be in "
        "sync; 0: one for each running broker, at most 3",
    )
    consumer_group: str = Field(
        "turnstream-workers", description="consumer group of the workers' intake"
    )
    schema_registry_url: str = Field(
        "",
        description="URL of a registry with Confluent's API; empty: records have single-object "
        "encoding",
    )

    # Postgres
    database_url: SecretStr = Field(
        SecretStr(""), description="URL of Postgres, postgresql://…; empty: the local stack's"
    )
    database_direct_url: SecretStr = Field(
        SecretStr(""),
        description="URL of Postgres without PgBouncer, for leases, LISTEN and migrations; "
        "empty: the same URL",
    )
    pool_size_max: int = Field(
        8,
        ge=2,
        le=64,
        description="database connections of each pool; a worker has 3 pools, an edge 2; "
        "callers wait for a free connection",
    )
    statement_timeout_s: float = Field(
        15.0, gt=0, description="seconds that one SQL statement may take; then it is cancelled"
    )

    # model and agent
    model_url: str = Field("", description="base URL of an OpenAI-compatible server, with /v1")
    model_name: str = Field(
        "", description="model of the built-in agent; empty: the first model that the server lists"
    )
    model_routes: dict[str, str] = Field(
        default_factory=dict,
        description="further models, as a JSON object of model name to base URL; a turn's "
        'config chooses one with "model"',
    )
    model_api_key: SecretStr = Field(
        SecretStr(""), description="bearer token for the model servers"
    )
    model_connect_timeout_s: float = Field(
        5.0,
        gt=0,
        description="seconds to connect to a model server; then the call fails and may be tried"
        " again",
    )
    model_first_token_timeout_s: float = Field(
        60.0,
        gt=0,
        description="seconds from a model call to its first token; then the call fails and may "
        "be tried again",
    )
    model_token_gap_timeout_s: float = Field(
        30.0,
        gt=0,
        description="seconds between two reads of an answer; then the call fails and may be "
        "tried again",
    )
    model_tries_max: int = Field(
        3, ge=1, description="tries of one model call, including the first"
    )
    model_turn_retries_max: int = Field(
        6, ge=0, description="retries of all model calls of one turn together"
    )
    model_backoff_s: float = Field(
        0.5,
        gt=0,
        description="seconds before the first retry of a model call; each further wait is twice"
        " as long",
    )
    model_backoff_max_s: float = Field(
        10.0, gt=0, description="longest wait before a retry, in seconds"
    )
    model_retry_after_max_s: float = Field(
        60.0,
        ge=0,
        description="longest Retry-After that a worker waits for, in seconds; a longer one ends"
        " the retries",
    )
    system_prompt: str = Field(
        "You are a helpful assistant.", description="system prompt of the built-in agent"
    )
    agent_steps_max: int = Field(
        16,
        ge=1,
        le=50,
        description="model calls in one turn of the built-in agent; the last one gets no tools;"
        " if the model still asks for tools, the turn fails with step_limit",
    )
    tool_timeout_s: float = Field(
        30.0,
        gt=0,
        description="seconds for one call of a tool of the built-in agent; then the call fails",
    )
    langgraph_json: Path | None = Field(
        None, description="path of a langgraph.json with graphs to serve"
    )

    # worker
    turns_max: int = Field(
        256,
        ge=1,
        description="turns that run at once in one worker; further turns wait in the ledger",
    )
    loop_lag_target_ms: float = Field(
        50.0,
        ge=0,
        description="average lag of a worker's event loop, in milliseconds, above which the "
        "worker claims fewer turns until the lag is lower; 0: turns_max is the only"
        " limit",
    )
    turn_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="seconds for a turn, from its first claim; then it fails with turn_timeout",
    )
    step_timeout_s: float = Field(
        600.0,
        gt=0,
        description="seconds for one step of a turn's graph; then the turn fails with step_timeout",
    )
    recursion_limit_max: int = Field(
        10_000, ge=1, description="steps of a turn; a higher recursion_limit is reduced to it"
    )
    turn_events_max: int = Field(
        500_000,
        ge=1000,
        description="events, and tokens, that one turn may emit; with more of either it fails "
        "with output_overrun",
    )
    open_turns_max: int = Field(
        100_000,
        ge=1,
        description="turns in the ledger that have not ended; above it the intake pauses and "
        "edges answer 503",
    )
    purge_after_days: float = Field(
        37.0,
        gt=0,
        le=36_500,
        description="days that closed turns, their tool calls and decisions about dead letters "
        "are kept; at least 7 days longer than the retention of inputs, results and"
        " dead letters",
    )
    tick_ms: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="shortest time between two produce rounds to one broker, in milliseconds",
    )
    ack_stall_s: float = Field(
        10.0,
        gt=0,
        description="seconds without acks after which a worker claims no turns and hands its "
        "threads to a peer that still receives acks",
    )
    lease_ttl_s: float = Field(
        3.0,
        gt=0.5,
        description="seconds that a worker's lease lasts without renewal; then its peers claim "
        "its turns",
    )
    worker_memory_max_mib: int = Field(
        0,
        ge=0,
        description="resident memory of a worker in MiB; above it, the worker hands over and "
        "restarts; 0: nine tenths of its container's limit, if there is one",
    )
    graph_block_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds that a graph may block its worker's event loop; then its turn "
        "fails with graph_blocked",
    )
    loop_block_max_s: float = Field(
        30.0,
        ge=0,
        description="seconds that a worker renews its lease while its event loop is blocked; "
        "then it restarts",
    )
    drain_timeout_s: float = Field(
        20.0, ge=0, description="seconds for running turns to end their step after SIGTERM"
    )
    text_chars_max: int = Field(
        200_000,
        ge=1,
        description="characters of a turn's text, input, answers and config, each as JSON "
        "without white space and escapes; above it edges answer 413 and workers "
        "write a dead letter, so both need the same value",
    )
    metadata_bytes_max: int = Field(
        65_536,
        ge=1024,
        description="bytes of a run's or a thread's metadata as JSON; above it edges answer 413"
        " and workers write a dead letter",
    )
    configurable_locked: tuple[str, ...] = Field(
        (),
        description="names in a run's `configurable` and `context` that only the operator sets,"
        " for example model,system_prompt; a turn that sets one is refused with 422"
        " or becomes a dead letter",
    )
    worker_health_host: str = Field("127.0.0.1", description="address of the worker's health port")
    worker_health_port: int = Field(
        0, ge=0, le=65535, description="health port of the worker; 0: none"
    )

    # edge
    edge_host: str = Field("127.0.0.1", description="address that the edge listens on")
    edge_port: int = Field(8123, ge=0, le=65535, description="port of the edge")
    batch_bytes_max: int = Field(
        64 << 20,
        ge=EVENT_BYTES_MAX,
        description="bytes of one Kafka fetch after decompression; a larger batch becomes a "
        "dead letter",
    )
    ring_bytes_max: int = Field(
        256 << 20,
        ge=1 << 20,
        description="bytes of the log that an edge keeps in memory; the oldest are dropped",
    )
    jwt_secret: SecretStr = Field(
        SecretStr(""), description="shared secret of HS256 tokens; at least 32 bytes"
    )
    jwks_url: str = Field("", description="URL of the token issuer's keys (RS256, ES256, EdDSA)")
    jwt_audience: str = Field("", description="required `aud` of tokens; empty: not checked")
    jwt_issuer: str = Field("", description="required `iss` of tokens; empty: not checked")
    jwt_leeway_s: float = Field(
        0.0,
        ge=0,
        le=300,
        description="seconds that a token is accepted before its start and after its end",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="origins of web pages that may use the edge, beside the edge's own; * for all",
    )
    edge_start_wait_s: float = Field(
        2.0,
        ge=0,
        description="seconds that the edge waits for a turn's first record before it answers 202",
    )
    edge_connections_max: int = Field(
        16_384,
        ge=8,
        description="connections of one edge, fewer if the limit of open files is low; above "
        "it, the connection that has waited longest for a request is closed",
    )
    edge_head_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds until a request's head or a socket's handshake has arrived; then 408",
    )
    edge_body_timeout_s: float = Field(
        30.0, gt=0, description="seconds until a request's whole body has arrived; then 408"
    )
    edge_sockets_per_user_max: int = Field(
        100,
        ge=1,
        description="open sockets, streams and pending answers of one user on one edge; then 429",
    )
    edge_subscriptions_per_socket_max: int = Field(
        32, ge=1, description="threads that one WebSocket may subscribe to"
    )
    edge_requests_per_s_max: float = Field(
        200.0, gt=0, description="requests and frames of one user per second, on average; then 429"
    )
    edge_frame_bytes_max: int = Field(
        1 << 20,
        ge=1024,
        description="bytes of one WebSocket message; a larger one closes the socket",
    )
    edge_body_bytes_max: int = Field(
        2 << 20, ge=1024, description="bytes of one HTTP request's body; then 413"
    )
    edge_buffer_bytes_max: int = Field(
        1 << 20,
        ge=1 << 16,
        description="unsent bytes allowed in one socket's buffer; a socket that exceeds it is "
        "aborted",
    )
    edge_stall_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds that a socket with unsent bytes may make no progress; then it is "
        "aborted",
    )
    edge_heartbeat_s: float = Field(
        15.0, gt=0, description="seconds between comments on a silent SSE stream"
    )
    edge_fetch_wait_ms: int = Field(
        500,
        ge=1,
        le=5000,
        description="milliseconds that a broker may hold back a fetch that has too little data",
    )
    edge_fetch_bytes_min: int = Field(
        1, ge=1, description="bytes that a fetch waits for; a larger value costs latency"
    )
    edge_warm_s: float = Field(
        60.0, ge=0, description="seconds of the log that an edge reads into memory when it starts"
    )
    edge_stop_timeout_s: float = Field(
        5.0, gt=0, description="seconds for running requests when the edge stops"
    )
    edge_url: str = Field(
        "", description="URL at which clients reach the edge; empty: host and port above"
    )

    # usage processor
    usage_window_s: int = Field(3600, ge=1, description="length of a usage window, in seconds")
    processor_folder: Path = Field(
        Path("/tmp/turnstream-processor"),  # noqa: S108  it holds nothing that has to last
        description="folder of Faust's (empty) working files",
    )

    # all
    start_timeout_s: float = Field(
        60.0,
        ge=0,
        description="seconds that a starting worker or edge waits for Kafka and Postgres; then "
        "it exits",
    )
    log_level: str = Field(
        "info", description="least level of log lines: debug, info, warning or error"
    )
    log_exception_text: bool = Field(
        False, description="log the text of exceptions, which may hold user data, with their frames"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _decoded(cls, value: object, info: ValidationInfo) -> object:
        """Read a list as `a,b` or as JSON, an object as JSON."""
        kind = get_origin(cls.model_fields[str(info.field_name)].annotation)
        if not isinstance(value, str) or kind not in {tuple, dict}:
            return value
        return _listed(value) if kind is tuple else _object(value)

    @property
    def topics(self) -> Topics:
        """Return the topics' names."""
        return Topics(self.topic_prefix)

    @property
    def command_limits(self) -> CommandLimits:
        """Return what a command may be, for workers and edges alike."""
        return CommandLimits(
            text_chars_max=self.text_chars_max,
            metadata_bytes_max=self.metadata_bytes_max,
            locked=frozenset(self.configurable_locked),
        )

    @property
    def direct_url(self) -> str:
        """Return the URL for what needs a session: lease, LISTEN, migrations."""
        return self.database_direct_url.get_secret_value() or self.database_url.get_secret_value()


def load_settings(**given: object) -> Settings:
    """Return the settings, `given` before the environment before `.env` before the defaults.

    Raises `ConfigurationError` that names each wrong variable and each unknown one.
    """
    wrong = unknown_names(
        [f"{PREFIX}{name.upper()}" for name in Settings.model_fields],
        environment=os.environ,
        dotenv=_dotenv().env_vars,
    )
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        wrong += [
            f"{PREFIX}{'.'.join(map(str, one['loc'])).upper()}: "
            f"{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("; ".join(wrong)) from error
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return settings


def sources() -> dict[str, str]:
    """Return where each field's value comes from: `environment`, `.env` or `default`."""
    found = dict.fromkeys(Settings.model_fields, "default")
    found.update(dict.fromkeys(_dotenv()().keys() & found, ".env"))
    found.update(dict.fromkeys(EnvSettingsSource(Settings)().keys() & found, "environment"))
    return found


def _dotenv() -> DotEnvSettingsSource:
    try:
        return DotEnvSettingsSource(Settings)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the file .env cannot be read: {error}") from error


def _listed(text: str) -> list[object]:
    if text.strip()[:1] not in {"[", "{", '"'}:
        return [item for part in text.split(",") if (item := part.strip())]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise ValueError(f'{text!r} is no list; give a,b or ["a", "b"]')  # noqa: TRY004
    return value


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError('it is no JSON object; give {"a": "b"}')  # noqa: TRY004
    return value
