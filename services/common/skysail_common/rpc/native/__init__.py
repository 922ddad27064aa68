"""The contract of `rpc.contract` on `skysail_transport`."""
