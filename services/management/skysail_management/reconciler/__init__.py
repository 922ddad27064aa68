"""Makes the world match the desired state: one independent loop a model version."""
