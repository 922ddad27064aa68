"""The Kubernetes API, as management and the SDK use it."""
