"""The inside of a container: loads one model version and runs batches."""
