"""The base of all processes of Skysail: errors, names, tensors, settings, logs, RPC, the store."""

__version__ = "0.1.0"
