"""`python -m skysail_model_server`: one replica."""

import os
import signal
import sys

if __name__ == "__main__":
    # SIGTERM has no default action in the first process of a container, and imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # The import of gRPC reads this variable. Its fork handlers crash the children of a process with
    # a server, and children of the user's code do not use that server.
    # `settings.py` does not read the variable, because it is not a setting of Skysail.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # noqa: TID251
    from skysail_model_server.app import main

    sys.exit(main(sys.argv[1:]))
