"""The process inside a container, which loads one model version and runs batches."""
