"""What every long-lived process of ours does: start, logs, health, metrics."""
