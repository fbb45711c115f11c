"""How turns become this worker's, run here, and are given back."""
