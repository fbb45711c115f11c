"""What hostile faults send is refused by the rules of admission, whatever the seed draws."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest

from tests.chaos.parts.hostile_faults import hostile_record
from turnstream.connectors.avro import Codec
from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.records.command_rules import CommandLimits
from turnstream.streams.worker.admission import Rules, admission_of

SEEDS = 400


def test_every_hostile_record_is_refused_with_a_code() -> None:
    codec = Codec()
    rules = Rules(wire=codec, store=codec, graphs={"agent"}, partitions=4, limits=CommandLimits())
    for seed in range(SEEDS):
        value, headers = hostile_record(Random(seed))
        record = SimpleNamespace(
            topic="turns.default", partition=0, offset=seed, key=b"p", value=value, headers=headers
        )
        with pytest.raises((UndecodableError, InvalidRequestError)) as refused:
            admission_of(record, "default", "topic-id", rules)
        assert refused.value.code
