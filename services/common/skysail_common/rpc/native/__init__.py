"""The transport contract (`rpc.contract`) on `skysail_transport`."""
