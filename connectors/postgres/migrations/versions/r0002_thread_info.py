"""What clients say about threads."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    run_sql("thread_info")


def downgrade() -> None:
    """Refuse: going back is a restore, not a migration."""
    msg = "what clients said about their threads would be lost"
    raise RuntimeError(msg)
