"""Settings: one frozen class, the only reader of the environment (`TURNSTREAM_*`) and `.env`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

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
    kafka_bootstrap: str = Field("", description="host:port list; empty: the local stack's")
    topic_prefix: str = Field("", description="stands before every topic's name")
    tenants: tuple[str, ...] = Field(
        ("default",), description="tenants with topics turns.<tenant> and turn-results.<tenant>"
    )
    json_result_tenants: tuple[str, ...] = Field(
        (), description="tenants whose turn-results.<tenant> holds JSON instead of Avro"
    )
    partitions: int = Field(24, ge=1, le=10_000, description="partitions of each topic")
    replication: int = Field(
        0,
        ge=0,
        description="of each topic, all but one in sync; 0: one a broker that runs now, at most 3",
    )
    consumer_group: str = Field("turnstream-workers", description="group of the workers' intake")
    schema_registry_url: str = Field("", description="Confluent API; empty: single-object encoding")

    # Postgres
    database_url: SecretStr = Field(
        SecretStr(""), description="postgresql://…; empty: the local stack's"
    )
    database_direct_url: SecretStr = Field(
        SecretStr(""), description="past a PgBouncer, for lease, LISTEN and migrations"
    )
    pool_size_max: int = Field(
        8, ge=2, le=64, description="connections of each pool: a worker has 3, an edge 2"
    )
    statement_timeout_s: float = Field(15.0, gt=0, description="of one SQL statement")

    # model and agent
    model_url: str = Field("", description="OpenAI-compatible base URL, with /v1")
    model_name: str = Field("", description="empty: the first that the server lists")
    model_routes: dict[str, str] = Field(
        default_factory=dict,
        description='JSON, model name to base URL, for turns whose config names a "model"',
    )
    model_api_key: SecretStr = Field(SecretStr(""), description="bearer token of the model server")
    model_connect_timeout_s: float = Field(5.0, gt=0, description="to the model server")
    model_first_token_timeout_s: float = Field(60.0, gt=0, description="of an answer")
    model_token_gap_timeout_s: float = Field(30.0, gt=0, description="between two reads")
    model_tries_max: int = Field(3, ge=1, description="of one call; the first try counts")
    model_turn_retries_max: int = Field(6, ge=0, description="of all calls of one turn")
    model_backoff_s: float = Field(0.5, gt=0, description="before a retry; doubles with each")
    model_backoff_max_s: float = Field(10.0, gt=0, description="up to this")
    model_retry_after_max_s: float = Field(60.0, ge=0, description="a Retry-After waited for")
    system_prompt: str = Field("You are a helpful assistant.", description="of the built-in agent")
    agent_steps_max: int = Field(16, ge=1, le=50, description="model calls in one turn")
    tool_timeout_s: float = Field(30.0, gt=0, description="of one call of a tool")
    langgraph_json: Path | None = Field(None, description="langgraph.json with graphs to serve")

    # worker
    turns_max: int = Field(256, ge=1, description="turns that run in one worker")
    loop_lag_target_ms: float = Field(
        50.0,
        ge=0,
        description="a worker claims fewer turns while its event loop is later than this on"
        " average, and more again when it is in time; 0: always turns_max",
    )
    turn_timeout_s: float = Field(3600.0, gt=0, description="of a turn, from its first claim")
    step_timeout_s: float = Field(600.0, gt=0, description="of one step of a turn's graph")
    recursion_limit_max: int = Field(
        10_000, ge=1, description="steps of a turn; a higher recursion_limit is cut to it"
    )
    turn_events_max: int = Field(
        500_000,
        ge=1000,
        description="events, and tokens, that one turn may emit; with more of either it fails,"
        " output_overrun",
    )
    open_turns_max: int = Field(100_000, ge=1, description="in the ledger; above, intake pauses")
    purge_after_days: float = Field(
        37.0,
        gt=0,
        le=36_500,
        description="closed turns, their tool calls, decisions about dead letters are kept; never "
        "less than inputs, results and dead letters are, and 7 days more",
    )
    tick_ms: float = Field(5.0, ge=0, le=1000, description="least time between produce rounds")
    ack_stall_s: float = Field(10.0, gt=0, description="without acks: claim none, look for a peer")
    lease_ttl_s: float = Field(3.0, gt=0.5, description="a frozen worker is dead after it")
    worker_memory_max_mib: int = Field(
        0,
        ge=0,
        description="resident memory of a worker; above, it hands over and starts anew. 0: nine"
        " tenths of its container's limit, where there is one",
    )
    graph_block_timeout_s: float = Field(
        10.0,
        gt=0,
        description="a graph may block its worker's event loop; then its turn fails, graph_blocked",
    )
    loop_block_max_s: float = Field(
        30.0,
        ge=0,
        description="a worker keeps its lease while its event loop is blocked; then it starts anew",
    )
    drain_timeout_s: float = Field(20.0, ge=0, description="for running turns after SIGTERM")
    text_chars_max: int = Field(
        200_000,
        ge=1,
        description="characters of a turn's text; also of input, answers and config, each as JSON "
        "without white space and escapes; edges answer 413, workers write a dead letter, so both "
        "need the same value",
    )
    metadata_bytes_max: int = Field(
        65_536,
        ge=1024,
        description="bytes of a run's metadata and of a thread's, as JSON; above: 413, dead letter",
    )
    configurable_locked: tuple[str, ...] = Field(
        (),
        description="names in a run's `configurable` and `context` that only the operator sets, as "
        "in model,system_prompt; a turn that sets one is refused: 422, dead letter",
    )
    worker_health_host: str = Field("127.0.0.1", description="address of the worker's health port")
    worker_health_port: int = Field(0, ge=0, le=65535, description="0: none")

    # edge
    edge_host: str = Field("127.0.0.1", description="address that the edge binds")
    edge_port: int = Field(8123, ge=0, le=65535, description="port of the edge")
    batch_bytes_max: int = Field(
        64 << 20,
        ge=EVENT_BYTES_MAX,
        description="bytes of one fetch from Kafka when decompressed; a batch that has more is a "
        "dead letter",
    )
    ring_bytes_max: int = Field(256 << 20, ge=1 << 20, description="of fetched log in memory")
    jwt_secret: SecretStr = Field(SecretStr(""), description="HS256 secret; at least 32 bytes")
    jwks_url: str = Field("", description="keys of the token issuer (RS256, ES256, EdDSA)")
    jwt_audience: str = Field("", description="required `aud`; empty: not checked")
    jwt_issuer: str = Field("", description="required `iss`; empty: not checked")
    jwt_leeway_s: float = Field(
        0.0, ge=0, le=300, description="a token is taken as long after its end, before its begin"
    )
    allowed_origins: tuple[str, ...] = Field(
        (), description="origins of pages in browsers, beside the edge's own; * for all"
    )
    edge_start_wait_s: float = Field(2.0, ge=0, description="for a turn's first record; then 202")
    edge_connections_max: int = Field(
        16_384,
        ge=8,
        description="connections at once, fewer where the limit of open files is low; above, the"
        " one that has waited longest for its request to arrive is closed",
    )
    edge_head_timeout_s: float = Field(
        10.0, gt=0, description="for a request's head or a socket's handshake to arrive; then 408"
    )
    edge_body_timeout_s: float = Field(
        30.0, gt=0, description="for a request's whole body to arrive; then 408"
    )
    edge_sockets_per_user_max: int = Field(
        100, ge=1, description="open sockets, streams and answers waited for"
    )
    edge_subscriptions_per_socket_max: int = Field(32, ge=1, description="on one WebSocket")
    edge_requests_per_s_max: float = Field(200.0, gt=0, description="of one user, on average")
    edge_frame_bytes_max: int = Field(1 << 20, ge=1024, description="of one WebSocket message")
    edge_body_bytes_max: int = Field(2 << 20, ge=1024, description="of one HTTP request")
    edge_buffer_bytes_max: int = Field(1 << 20, ge=1 << 16, description="written on as many unsent")
    edge_stall_timeout_s: float = Field(10.0, gt=0, description="a socket may take nothing")
    edge_heartbeat_s: float = Field(15.0, gt=0, description="between comments on a silent SSE")
    edge_fetch_wait_ms: int = Field(500, ge=1, le=5000, description="a fetch may wait for data")
    edge_fetch_bytes_min: int = Field(1, ge=1, description="a fetch waits for; more costs latency")
    edge_warm_s: float = Field(60.0, ge=0, description="of log read into the ring at start")
    edge_stop_timeout_s: float = Field(5.0, gt=0, description="for requests under way at a stop")
    edge_url: str = Field(
        "", description="where clients reach the edge; empty: host and port above"
    )

    # usage processor
    usage_window_s: int = Field(3600, ge=1, description="length of a usage window")
    processor_folder: Path = Field(
        Path("/tmp/turnstream-processor"),  # noqa: S108  it holds nothing that has to last
        description="where Faust keeps its (empty) working files",
    )

    # all
    start_timeout_s: float = Field(
        60.0, ge=0, description="a worker or an edge that starts waits for Kafka and Postgres"
    )
    log_level: str = Field("info", description="debug, info, warning, error")
    log_exception_text: bool = Field(
        False, description="log the text of exceptions, which may hold user data, with their frames"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _decoded(cls, value: Any, info: ValidationInfo) -> Any:
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


def _listed(text: str) -> list[Any]:
    if text.strip()[:1] not in {"[", "{", '"'}:
        return [item for part in text.split(",") if (item := part.strip())]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise ValueError(f'{text!r} is no list; give a,b or ["a", "b"]')  # noqa: TRY004
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError('it is no JSON object; give {"a": "b"}')  # noqa: TRY004
    return value
