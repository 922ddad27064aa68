"""A cluster on Kubernetes: its objects, how it is started, reached and removed."""
