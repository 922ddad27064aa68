"""Packagers: each recognises the models of one format and says what travels."""
