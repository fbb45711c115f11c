"""What runs: worker, edge, processors, replay and the command line."""
