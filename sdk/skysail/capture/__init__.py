"""Makes of a function what a replica needs to run it: a pickle, local modules, and versions."""
