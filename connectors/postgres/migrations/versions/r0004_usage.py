"""The tables of the usage processor."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables and the counting function."""
    run_sql("usage")


def downgrade() -> None:
    """Refuse: what a turn was counted with would be lost."""
    msg = "usage cannot be counted again once the results have left the log"
    raise RuntimeError(msg)
