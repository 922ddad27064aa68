from importlib.util import find_spec

# The environments of the other interpreters lack scikit-learn.
collect_ignore = [] if find_spec("sklearn") else ["test_pickle_scan.py", "test_scikit_learn.py"]
