"""A bound on the cancels that a thread keeps for turns that never came."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the index and replace the function that admits."""
    run_sql("early_cancels")
    run_sql("admit")


def downgrade() -> None:
    """Refuse: going back is a restore, not a migration."""
    msg = "cancels that were dropped do not come back"
    raise RuntimeError(msg)
