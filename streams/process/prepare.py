"""What has to exist before a process can work: tables and topics, made once and then checked."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog

from turnstream.connectors.kafka.admin import TopicAdmin
from turnstream.connectors.postgres.migrate import migrate
from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.connectors.kafka.admin import TopicDrift
    from turnstream.streams.app.settings import Settings

log = structlog.get_logger(__name__)


async def prepare(settings: Settings) -> None:
    """Migrate the database and make missing topics; safe when many processes start at once.

    A topic that differs from what is wanted is logged and left alone; raises `ConfigurationError`
    where it differs so that a promise would not hold.
    """
    await in_daemon(migrate, settings.direct_url)
    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        await admin.create(wanted)
        _judge(await admin.check(wanted))


async def check_topics(settings: Settings) -> None:
    """Log topics that differ; raises `ConfigurationError` for settings that cannot work.

    Topics that do not exist are left to the reader that needs them.
    """
    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        _judge([drift for drift in await admin.check(wanted) if drift.key != "exists"])


def _judge(drifts: list[TopicDrift]) -> None:
    for drift in drifts:
        log.warning("topic_differs", drift=str(drift))
    if breaking := [str(drift) for drift in drifts if drift.breaks]:
        raise ConfigurationError("; ".join(breaking))


async def in_daemon(call: Callable[[str], None], dsn: str) -> None:
    """Run what waits for the database in a thread that the process's end does not wait for."""
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            call(dsn)
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name=call.__name__, daemon=True).start()
    await asyncio.wrap_future(done)
