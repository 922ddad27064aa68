"""A cluster on one machine, as processes."""
