"""The container manager `docker`: replicas are containers of a Docker engine."""
