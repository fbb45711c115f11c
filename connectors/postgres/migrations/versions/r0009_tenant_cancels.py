"""A bound on the cancels that a tenant keeps for turns that never came, and no threads of them."""

from __future__ import annotations

from turnstream.connectors.postgres.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the index and the function, and replace the function that admits."""
    run_sql("tenant_cancels")
    run_sql("admit")


def downgrade() -> None:
    """Refuse: going back is a restore, not a migration."""
    msg = "cancels that were dropped do not come back"
    raise RuntimeError(msg)
