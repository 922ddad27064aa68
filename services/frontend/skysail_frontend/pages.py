"""Pages of a frontend's metrics port, as another process of the same machine reads them."""

import http.client

from skysail_common.sockets import split_host_port

_TIMEOUT_S = 2.0


def read_page(endpoint: str, path: str) -> tuple[int, str]:
    """Return the HTTP status and the text of a page.

    Args:
        endpoint: As host:port.
        path: Such as `/metrics`.

    Raises:
        OSError: there is no answer.
    """
    host, port = split_host_port(endpoint)
    # Not urllib, which would go through a proxy that is set for the web.
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{endpoint}{path}: {error!r}") from error
    finally:
        connection.close()
