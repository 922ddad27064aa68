"""The pages of docs/ that are written from the code, one module for each kind."""
