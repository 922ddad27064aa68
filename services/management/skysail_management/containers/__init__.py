"""Container managers: back ends that start, list and stop containers."""
