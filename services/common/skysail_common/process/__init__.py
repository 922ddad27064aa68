"""The life cycle of a service process: settings, logs, children, sockets, data directory."""
