"""Package `skysail.v1`: queries, management, and model servers."""
