"""The hosts that HTTP requests may name.

A web page can give its own name the address 127.0.0.1 (DNS rebinding), and then reads what a server
there answers. Such requests name the host of the page.
"""

from ipaddress import ip_address


def host_of(authority: str) -> str:
    """Return the host of `host:port`, in lower case and without brackets."""
    name, colon, port = authority.lower().rpartition(":")
    is_port = colon and not port.strip("0123456789")
    return (name if is_port else authority.lower()).strip("[]")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which no web page can give to another server."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
