"""`python -m skysail_model_server.fetch`: writes the artifact where a model server is to find it.

On Kubernetes it runs in a container of its own before the model server, which then need reach nothing.
"""

import asyncio
import sys
from collections.abc import Sequence

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.process.settings import read_settings
from skysail_common.states import ExitCode
from skysail_model_server.artifact_download import download_artifact
from skysail_model_server.replica_log import configure_log, tell
from skysail_model_server.settings import ModelServerSettings


def main(arguments: Sequence[str]) -> int:
    """Write the artifact to the setting artifact-file and return the exit status."""
    try:
        settings = read_settings(ModelServerSettings, "skysail-model-server-fetch", arguments)
        configure_log(settings)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    if settings.artifact_file is None or not settings.management_endpoint:
        sys.stderr.write(
            "needs an artifact-file to write to, and a management-endpoint that has it\n"
        )
        return ExitCode.USAGE
    try:
        asyncio.run(
            download_artifact(
                settings.management_endpoint,
                settings.replica_id,
                settings.token.get_secret_value(),
                settings.artifact_file,
                settings.fetch_timeout_s,
                settings.artifact_sha256,
            )
        )
    except SkysailError as error:
        tell(error, settings.log_format)
        return ExitCode.UNAVAILABLE if isinstance(error, Unavailable) else ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
