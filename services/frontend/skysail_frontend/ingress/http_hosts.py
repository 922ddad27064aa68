"""Checks of the host in HTTP requests, against DNS rebinding.

A web page can resolve its own host name to 127.0.0.1, and then read the answers of a server on that
address. Such requests carry the host name of the page.
"""

from ipaddress import ip_address


def host_of(authority: str) -> str:
    """Return the host of `host:port`, in lower case and without brackets."""
    name, colon, port = authority.lower().rpartition(":")
    is_port = colon and not port.strip("0123456789")
    return (name if is_port else authority.lower()).strip("[]")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which a web page cannot rebind."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
