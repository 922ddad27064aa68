"""The doors of the frontend: each converts a request, calls the core and converts the answer."""
