"""scikit-learn's digits: a random forest as version 1, a logistic regression as version 2."""
