"""Settings that cannot work are named, each in a sentence."""

from __future__ import annotations

import pytest

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.contradictions import contradictions, refuse_contradictions
from turnstream.streams.settings import Settings


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
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, object], named: str):
    with pytest.raises(ConfigurationError, match=f"TURNSTREAM_{named}: "):
        refuse_contradictions(made(**given))
