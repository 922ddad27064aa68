"""`python -m skysail_frontend.health_check`: the health check of the image.

The check reads the same variables as the frontend. It uses the metrics port, which never has TLS:
the certificate of the frontend is not valid for 127.0.0.1, and the check has no certificate.
"""

import asyncio
import sys

from skysail_common.process.http_get import read_page
from skysail_common.process.settings import read_settings
from skysail_common.process.sockets import join_host_port
from skysail_frontend.settings import FrontendSettings


def main() -> int:
    """Return 0 if the frontend is ready, else 1."""
    settings = read_settings(FrontendSettings, "health-check", [])
    endpoint = join_host_port(settings.host, settings.metrics_port)
    try:
        status, _ = asyncio.run(read_page(endpoint, "/ready"))
    except OSError:
        return 1
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
