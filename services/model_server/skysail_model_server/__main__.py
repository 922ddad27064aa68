"""`python -m skysail_model_server`: one replica."""

import os
import signal
import sys

if __name__ == "__main__":
    # The first process of a container has no default action, and the imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Read where gRPC is imported. Its own handlers of forks crash the children of a process in
    # which a server runs; children of the user's code use nothing of that server.
    # No setting of Skysail, so that `settings.py` has no part in it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # noqa: TID251
    from skysail_model_server.app import main

    sys.exit(main(sys.argv[1:]))
