"""Settings: lists and objects as people write them, names that nothing reads."""

from __future__ import annotations

from typing import get_origin

import pytest

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.app.settings import Settings, load_settings, sources
from turnstream.streams.app.variables import OTHER_NAMES, unknown_names

LISTS = [
    name for name, field in Settings.model_fields.items() if get_origin(field.annotation) is tuple
]
NAMES = [f"TURNSTREAM_{name.upper()}" for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in (*NAMES, "TURNSTREAM_TEST_KAFKA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , b ,", ("a", "b")),
        ("https://a.example,http://b:8080", ("https://a.example", "http://b:8080")),
        ('["a", "b"]', ("a", "b")),
        (' ["a"] ', ("a",)),
        ("[]", ()),
        (",", ()),
    ],
)
def test_every_list_reads_commas_and_json(monkeypatch, tmp_path, name, text, value):
    monkeypatch.setenv(f"TURNSTREAM_{name.upper()}", text)
    assert getattr(load_settings(), name) == value
    monkeypatch.delenv(f"TURNSTREAM_{name.upper()}")
    (tmp_path / ".env").write_text(f"TURNSTREAM_{name.upper()}='{text}'\n")
    assert getattr(load_settings(), name) == value
    assert sources()[name] == ".env"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TENANTS", '["a"'),
        ("TENANTS", '{"a": 1}'),
        ("TENANTS", '"a"'),
        ("TENANTS", "[1, 2]"),
        ("TENANTS", "[a,b]"),
        ("MODEL_ROUTES", "a,b"),
        ("MODEL_ROUTES", '["a"]'),
        ("MODEL_ROUTES", '{"a": 1}'),
        ("PARTITIONS", "many"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(monkeypatch, name, text):
    monkeypatch.setenv(f"TURNSTREAM_{name}", text)
    with pytest.raises(ConfigurationError, match=f"TURNSTREAM_{name}"):
        load_settings()
    assert sources()[name.lower()] == "environment"


def test_a_name_that_nothing_reads_is_named_with_the_nearest(monkeypatch, tmp_path):
    monkeypatch.setenv("TURNSTREAM_KAFKA_BOOTSTRAPS", "h:1")
    monkeypatch.setenv("turnstream_jwt_secert", "x" * 40)
    (tmp_path / ".env").write_text("TURNSTREAM_TENNANTS=a\nOTHER_PROGRAM=1\n")

    with pytest.raises(ConfigurationError) as refused:
        load_settings()

    assert str(refused.value).split("; ") == [
        "TURNSTREAM_TENNANTS in .env is no setting (the nearest is TURNSTREAM_TENANTS)",
        (
            "TURNSTREAM_KAFKA_BOOTSTRAPS in the environment is no setting "
            "(the nearest is TURNSTREAM_KAFKA_BOOTSTRAP)"
        ),
        (
            "TURNSTREAM_JWT_SECERT in the environment is no setting "
            "(the nearest is TURNSTREAM_JWT_SECRET)"
        ),
    ]
    assert "x" * 40 not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name.replace("*", "ANYTHING"), "x") for name in OTHER_NAMES),
        ("turnstream_tenants", "a"),
        ("TURNSTREAM_SERVICE_HOST", "10.0.0.1"),
        ("TURNSTREAM_WORKER_SERVICE_PORT_HTTP", "80"),
        ("TURNSTREAM_PORT", "tcp://10.0.0.1:8123"),
        ("TURNSTREAM_PORT_8123_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ],
)
def test_names_that_somebody_else_reads_are_none_of_them(name, value):
    assert unknown_names(NAMES, environment={name: value}, dotenv={}) == []
    assert unknown_names(NAMES, environment={"TURNSTREAM_EGDE_PORT": "1"}, dotenv={}) != []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / ".env").write_bytes(b"TURNSTREAM_TENANTS=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read"):
        load_settings()
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read"):
        sources()
