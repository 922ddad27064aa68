"""Checks of a model before its deploy: `skysail.check`, `skysail check`."""
