"""Settings that cannot work are named, each in a sentence."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.app.contradictions import contradictions, refuse_contradictions
from turnstream.streams.app.settings import Settings


def made(**given: object) -> Settings:
    return Settings(_env_file=None, **given)


def test_what_is_set_by_default_works():
    assert refuse_contradictions(made()) is not None
    assert list(contradictions(made(kafka_bootstrap="a:1, [::1]:2,b", log_level="INFO"))) == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tenants": ("a b",)}, "TENANTS"),
        ({"tenants": ("a", "a")}, "TENANTS"),
        ({"kafka_bootstrap": "h:port"}, "KAFKA_BOOTSTRAP"),
        ({"kafka_bootstrap": "kafka://h:1"}, "KAFKA_BOOTSTRAP"),
        ({"topic_prefix": "a/b"}, "TOPIC_PREFIX"),
        ({"log_level": "loud"}, "LOG_LEVEL"),
        ({"model_backoff_s": 20.0, "model_backoff_max_s": 10.0}, "MODEL_BACKOFF_S"),
        ({"jwt_audience": "x"}, "JWT_AUDIENCE"),
        ({"json_result_tenants": ("acme",)}, "JSON_RESULT_TENANTS"),
        ({"graph_block_timeout_s": 30.0}, "GRAPH_BLOCK_TIMEOUT_S"),
        ({"loop_block_max_s": 5.0}, "GRAPH_BLOCK_TIMEOUT_S"),
        ({"edge_body_bytes_max": 100_000}, "EDGE_BODY_BYTES_MAX"),
        ({"edge_frame_bytes_max": 100_000}, "EDGE_FRAME_BYTES_MAX"),
        ({"edge_body_bytes_max": 2048, "text_chars_max": 1000}, "EDGE_BODY_BYTES_MAX"),
        ({"text_chars_max": 1_000_000}, "TEXT_CHARS_MAX"),
        ({"metadata_bytes_max": 900_000}, "TEXT_CHARS_MAX"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, object], named: str):
    with pytest.raises(ConfigurationError, match=f"TURNSTREAM_{named}: "):
        refuse_contradictions(made(**given))


def test_the_other_setting_and_the_fix_are_named():
    found = dict(contradictions(made(loop_block_max_s=5.0, text_chars_max=1_500_000)))
    assert "loop_block_max_s higher" in found["graph_block_timeout_s"]
    assert "text_chars_max allows 1500000" in found["edge_frame_bytes_max"]
    assert "metadata_bytes_max" in found["text_chars_max"]
    assert list(contradictions(made(loop_block_max_s=0.0))) == [], "it starts anew at once"


@pytest.mark.parametrize("given", [{"batch_bytes_max": 1 << 20}, {"edge_fetch_wait_ms": 10_000}])
def test_a_bound_below_what_the_topics_and_connections_need_is_refused(given: dict[str, int]):
    with pytest.raises(ValidationError):
        made(**given)
