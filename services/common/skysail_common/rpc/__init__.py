"""gRPC: the transport contract, its implementations, error translation, servers and channels."""
