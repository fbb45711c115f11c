"""Who asks, in the config of a command: from the token, whatever a client says."""

from __future__ import annotations

import pytest

from turnstream.graph.run.input import TurnInput
from turnstream.schemas.records.command_rules import IDENTITY_KEYS
from turnstream.streams.edge.ask.identity import config_for
from turnstream.streams.edge.server.auth import DevAuthenticator, Principal

ANN = Principal("acme", "ann", frozenset({"writer", "reader"}))
FORGED = dict.fromkeys(IDENTITY_KEYS, "root")


@pytest.mark.parametrize("config", [None, {"tags": ["a"]}, {"configurable": None}])
def test_a_verified_caller_is_in_the_config(config: dict | None) -> None:
    found = config_for(ANN, config)["configurable"]
    assert found.keys() == {*IDENTITY_KEYS}
    assert (found["user_id"], found["tenant_id"]) == ("ann", "acme")
    assert found["roles"] == found["langgraph_auth_permissions"] == ["reader", "writer"]


def test_a_clients_own_values_are_replaced_and_the_rest_stays() -> None:
    config = {"configurable": {**FORGED, "model": "m"}, "context": {"a": 1}}
    found = config_for(ANN, config)
    assert "root" not in str(found)
    assert found["configurable"]["model"] == "m"
    assert found["context"] == {"a": 1}
    turn = TurnInput(turn_id="t", thread_key="acme/x", config=found)
    user = turn.configurable["langgraph_auth_user"]
    assert (user.identity, user["tenant_id"], user.permissions) == (
        "ann",
        "acme",
        ["reader", "writer"],
    )


async def test_without_auth_a_clients_values_pass() -> None:
    config = {"configurable": FORGED}
    assert config_for(await DevAuthenticator().authenticate(None), config) == config
