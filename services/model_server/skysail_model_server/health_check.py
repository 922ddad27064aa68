"""`python -m skysail_model_server.health_check`: the health check of the image.

It reads the variables of the model server.
"""

import sys

from skysail_common.process.settings import read_settings
from skysail_common.rpc.health_check import health_status
from skysail_model_server.settings import ModelServerSettings


def main() -> int:
    """Return 0 if the model server accepts batches, else 1."""
    settings = read_settings(ModelServerSettings, "health-check", [])
    return health_status(settings.listen_address)


if __name__ == "__main__":
    sys.exit(main())
