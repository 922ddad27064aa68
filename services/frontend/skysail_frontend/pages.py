"""Pages of a frontend's metrics port, as another process of the same machine reads them."""

import http.client

_TIMEOUT_S = 2.0


def read_page(endpoint: str, path: str) -> tuple[int, str]:
    """Return the HTTP status and the text of a page.

    Args:
        endpoint: As host:port.
        path: Such as `/metrics`.

    Raises:
        OSError: there is no answer.
    """
    host, _, port = endpoint.rpartition(":")
    # Not urllib, which would go through a proxy that is set for the web.
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{endpoint}{path}: {error!r}") from error
    finally:
        connection.close()
