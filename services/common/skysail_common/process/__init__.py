"""The life of a process of a service: settings, logs, children, sockets, its data directory."""
