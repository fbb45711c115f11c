"""Faults of what all stages share: brokers and Postgres die, come back, and forget."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.chaos.faults import NothingToStrikeError, fault

if TYPE_CHECKING:
    from tests.chaos.faults import Stage
    from tests.chaos.parts.server import Server

DOWN_S = 2.0
LOST_S = (0.3, 60.0)
"""How much of the ledger a restore loses: from the least to the most, in seconds."""

STANDS_BY_S = (0.0, 3.0)


class _OfServers:
    """One at a time: what another of these harms now is nothing to strike."""

    scope = "servers"
    lasts_s = DOWN_S
    _mine = False

    async def strike(self, stage: Stage) -> None:
        """Do the harm, unless servers are harmed already."""
        if stage.servers.harmed:
            raise NothingToStrikeError
        self._mine = stage.servers.harmed = True
        await self._harm(stage)

    async def heal(self, stage: Stage) -> None:
        """Undo it, if it was done."""
        if self._mine:
            await self._mend(stage)
            self._mine = stage.servers.harmed = False


class _OfKafka(_OfServers):
    gently = False
    all_nodes = True

    async def _harm(self, stage: Stage) -> None:
        """End all nodes, or one of them."""
        nodes = stage.servers.brokers.nodes
        struck: list[Server] = nodes if self.all_nodes else [stage.random.choice(nodes)]
        await asyncio.gather(*(node.stop() if self.gently else node.kill() for node in struck))

    async def _mend(self, stage: Stage) -> None:
        """Start what is down, and wait until every replica is in sync again."""
        brokers = stage.servers.brokers
        await asyncio.gather(*(node.begin() for node in brokers.nodes))
        await asyncio.gather(*(node.serves() for node in brokers.nodes))
        await brokers.whole()


@fault
class StopKafka(_OfKafka):
    """SIGTERM to every broker: each hands its partitions over, or says that it goes."""

    name = "stop-kafka"
    gently = True


@fault
class KillKafka(_OfKafka):
    """Kill -9 of every broker."""

    name = "kill-kafka"


@fault
class StopBroker(_OfKafka):
    """SIGTERM to one broker of several."""

    name = "stop-broker"
    needs_brokers = True
    gently, all_nodes = True, False


@fault
class KillBroker(_OfKafka):
    """Kill -9 of one broker of several."""

    name = "kill-broker"
    needs_brokers = True
    all_nodes = False


@fault
class FreezeBroker(_OfKafka):
    """SIGSTOP of one broker of several, until the others have taken its partitions over."""

    name = "freeze-broker"
    needs_brokers = True
    lasts_s = 15.0

    async def _harm(self, stage: Stage) -> None:
        """Freeze one."""
        stage.random.choice(stage.servers.brokers.nodes).freeze()

    async def _mend(self, stage: Stage) -> None:
        """Thaw it and wait until it has caught up."""
        for node in stage.servers.brokers.nodes:
            node.thaw()
        await super()._mend(stage)


class _OfPostgres(_OfServers):
    async def _mend(self, stage: Stage) -> None:
        """Start it, if it is down."""
        await stage.servers.postgres.whole()


@fault
class StopPostgres(_OfPostgres):
    """A fast shutdown: it ends every session."""

    name = "stop-postgres"

    async def _harm(self, stage: Stage) -> None:
        """Stop it."""
        await stage.servers.postgres.server.stop()


@fault
class KillPostgres(_OfPostgres):
    """Kill -9 of the postmaster: it comes back by recovery from a crash."""

    name = "kill-postgres"

    async def _harm(self, stage: Stage) -> None:
        """Kill it."""
        await stage.servers.postgres.server.kill()


@fault
class RestorePostgres(_OfPostgres):
    """Postgres comes back as it was some seconds ago, on a new timeline."""

    name = "restore-postgres"
    lasts_s = 0.0
    loses_rows = True

    async def _harm(self, stage: Stage) -> None:
        """Back it up, let the story go on, and put the backup back."""
        postgres = stage.servers.postgres
        await postgres.back_up()
        await asyncio.sleep(stage.random.uniform(*LOST_S))
        await postgres.restore()


@fault
class FailOver(_OfPostgres):
    """Postgres dies, and its synchronous standby is promoted: nothing committed is lost."""

    name = "fail-over"
    lasts_s = 0.0

    async def _harm(self, stage: Stage) -> None:
        """Build the standby, let the story go on with it, and kill the primary."""
        await stage.servers.postgres.fail_over(stage.random.uniform(*STANDS_BY_S))
