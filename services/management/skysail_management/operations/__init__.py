"""The operations of operators: they check requests and write records for the reconciler."""
