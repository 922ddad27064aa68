"""`python -m skysail_management`: the management service."""

import sys

from skysail_common.process.service_main import service_main
from skysail_management.app import run
from skysail_management.settings import ManagementSettings

if __name__ == "__main__":
    sys.exit(service_main("management", ManagementSettings, run))
