"""Data frames of pandas and polars as arrays by column, and back."""
