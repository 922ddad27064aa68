"""`python -m skysail_model_server.check DIRECTORY REPORT`: loads an artifact as a replica would.

The artifact is unpacked in the directory. The report is a JSON object: `problem`, the reason of a
failure in one line or an empty text, `details` with other hints and the traceback, and the seconds `load_s` and
`answer_s`, which the load and the answer to the example took. The exit status is 0 if the model
answers, else 1.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError
from skysail_common.loaders.base import ModelContext
from skysail_common.states import ExitCode
from skysail_model_server.model_loader import LoadFailed, load_model
from skysail_model_server.start_progress import StartProgress
from skysail_model_server.warm_up import WarmUpLimits


class _Steps(StartProgress):
    """The instants at which the steps of a start begin."""

    def __init__(self) -> None:
        super().__init__(MONOTONIC)
        self.begun: list[float] = []

    def begin(self, doing: str) -> None:
        """Record the step."""
        super().begin(doing)
        self.begun.append(MONOTONIC())


def main(arguments: Sequence[str]) -> int:
    """Check, write the report, and return the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m skysail_model_server.check DIRECTORY REPORT\n")
        return ExitCode.USAGE
    directory, report = map(Path, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    steps, problem, details = _Steps(), "", ""
    try:
        load_model(
            UnpackedArtifact(directory, ""),
            ModelContext(
                name="check", version="1", num_threads=os.cpu_count() or 1, owns_process=True
            ),
            WarmUpLimits(budget_s=0),
            steps,
        )
    except LoadFailed as error:
        problem, details = error.cause, error.details
    except SkysailError as error:
        problem = error.message
    instants = [*steps.begun, MONOTONIC()]
    # The second step, the call with the example, is absent without an example.
    seconds = [end - begin for begin, end in pairwise(instants)]
    load_s, answer_s = [*seconds, 0.0, 0.0][:2]
    found = {"problem": problem, "details": details, "load_s": load_s, "answer_s": answer_s}
    report.write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    # Threads of the user's code would keep the process alive.
    os._exit(ExitCode.FAILED if problem else ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
