"""`python -m skysail_frontend.health_check`: the health check of the image.

It reads the same variables as the frontend does.
"""

import sys

from skysail_common.rpc.health_check import health_status
from skysail_common.settings import read_settings
from skysail_frontend.settings import FrontendSettings


def main() -> int:
    """Return 0 if the frontend takes calls, else 1."""
    settings = read_settings(FrontendSettings, "health-check", [])
    return health_status(f"{settings.host}:{settings.grpc_port}")


if __name__ == "__main__":
    sys.exit(main())
