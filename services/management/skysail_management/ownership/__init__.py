"""One management at a time owns the store, and none takes lost data for the truth."""
