"""The rules of models, versions and deployments: functions of the records alone."""
