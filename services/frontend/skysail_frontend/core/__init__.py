"""The core of the frontend: queries in, batches out, answers back. It knows no transport."""
