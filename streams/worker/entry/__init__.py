"""What an intake needs: where it stands, what its records ask for, what becomes of the others."""
