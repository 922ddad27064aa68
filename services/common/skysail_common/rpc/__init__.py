"""gRPC at the edges: the contract of a call, its transport, errors, servers and channels."""
