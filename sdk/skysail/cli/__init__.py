"""The command `skysail`."""
