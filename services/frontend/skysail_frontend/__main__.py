"""`python -m skysail_frontend`: one frontend."""

import sys

from skysail_common.process.service_main import service_main
from skysail_frontend.app import run
from skysail_frontend.settings import FrontendSettings

if __name__ == "__main__":
    sys.exit(service_main("frontend", FrontendSettings, run, use_uvloop=True))
