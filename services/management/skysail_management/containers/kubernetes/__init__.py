"""The container manager `kubernetes`: replicas are pods."""
