"""The container manager `local`: replicas are processes of this machine."""
