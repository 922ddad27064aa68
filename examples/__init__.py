"""Real, runnable examples."""
