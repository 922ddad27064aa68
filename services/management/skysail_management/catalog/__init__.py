"""The rules of models, versions and deployments, as functions of the records."""
