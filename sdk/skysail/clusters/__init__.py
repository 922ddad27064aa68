"""Clusters that `skysail up` starts: on this machine, in Docker or on Kubernetes."""
