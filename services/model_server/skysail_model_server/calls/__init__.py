"""How a model answers the queries of a batch, one file a way."""
