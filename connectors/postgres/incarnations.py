"""Number the incarnations of a topic: a recreated topic has another id, and old offsets mean nothing.

Reads and writes `incarnations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

_SEE = """
INSERT INTO incarnations AS i (topic, topic_id, incarnation) VALUES ($1, $2, 1)
ON CONFLICT (topic) DO UPDATE SET
  incarnation = i.incarnation + (i.topic_id <> excluded.topic_id)::int,
  since = CASE WHEN i.topic_id <> excluded.topic_id THEN now() ELSE i.since END,
  topic_id = excluded.topic_id
RETURNING incarnation
"""


async def incarnation_of(pool: asyncpg.Pool, topic: str, topic_id: UUID) -> int:
    """Return the number of the topic's life with this id, from 1; a new id takes the next number.

    Any number of processes may ask at once; with the same id they get the same number.
    """
    return int(await pool.fetchval(_SEE, topic, topic_id))
