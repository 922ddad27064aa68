"""`python -m skysail_management.health_check`: the health check of the image.

The check reads the same environment variables as management.
"""

import sys

from skysail_common.process.data_dir import management_socket
from skysail_common.process.settings import read_settings
from skysail_common.process.sockets import join_host_port
from skysail_common.rpc.health_check import LIVENESS, health_status
from skysail_management.settings import ManagementSettings


def main() -> int:
    """Return 0 if management serves or is a standby, otherwise 1."""
    settings = read_settings(ManagementSettings, "health-check", [])
    if settings.tls_certificate_file is not None and not settings.kubernetes_lease:
        return health_status(management_socket(settings.data_dir), LIVENESS)
    return health_status(join_host_port(settings.host, settings.port), LIVENESS)


if __name__ == "__main__":
    sys.exit(main())
