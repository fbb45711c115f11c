"""The ledger: tables, timeline, functions."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0001"
down_revision = None

_FILES = ("tables", "timeline", "claim", "admit", "finish", "ended", "expire", "workers")


def upgrade() -> None:
    """Create everything, from the SQL files in this order."""
    for name in _FILES:
        run_sql(name)


def downgrade() -> None:
    """Refuse: a ledger without its tables is a restore, not a migration."""
    msg = "the first revision cannot be taken back"
    raise RuntimeError(msg)
