"""`python -m skysail_model_server.fetch`: downloads the artifact for a model server.

On Kubernetes an init container runs it, so that the model server itself needs no network access.
"""

import asyncio
import sys
from collections.abc import Sequence

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.process.settings import read_settings
from skysail_common.states import ExitCode
from skysail_model_server.artifact_download import download_artifact
from skysail_model_server.replica_log import configure_log, write_error
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
            "cannot fetch the artifact: artifact-file or management-endpoint is missing; set both\n"
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
        write_error(error, settings.log_format)
        return ExitCode.UNAVAILABLE if isinstance(error, Unavailable) else ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
