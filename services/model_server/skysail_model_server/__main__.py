"""`python -m skysail_model_server`: one replica."""

import sys

from skysail_model_server.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
