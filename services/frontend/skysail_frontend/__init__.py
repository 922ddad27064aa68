"""The query plane: takes queries, batches them for replicas, answers by the deadline."""
