"""The Docker engine, as management and the SDK use it."""
