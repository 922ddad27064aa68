"""A cluster on Kubernetes: its objects, their start, access and removal."""
