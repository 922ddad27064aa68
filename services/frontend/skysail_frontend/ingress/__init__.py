"""The doors: each converts, makes one call to the core, and converts back."""
