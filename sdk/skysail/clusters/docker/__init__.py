"""A cluster on one machine, as containers."""
