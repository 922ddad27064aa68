"""What operators can ask for: checks it, writes the records, and lets the reconciler do the rest."""
