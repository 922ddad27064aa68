"""What every process of Skysail shares: errors, names, tensors, settings, logs, RPC, the store."""

__version__ = "0.1.0"
