"""`python -m skysail_model_server.fetch`: downloads the artifact for a model server.

On Kubernetes an init container runs it, so that the model server itself needs no network access.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.process.settings import read_settings
from skysail_common.states import ExitCode
from skysail_model_server.artifact_download import download_artifact
from skysail_model_server.replica_log import configure_log, write_error
from skysail_model_server.settings import ModelServerSettings
from skysail_model_server.unpacked_directories import sweep


def main(arguments: Sequence[str]) -> int:
    """Lay out the artifact in the directory of the setting artifact-dir and return the exit status."""
    try:
        settings = read_settings(ModelServerSettings, "skysail-model-server-fetch", arguments)
        configure_log(settings)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    if settings.artifact_dir is None or not settings.management_endpoint:
        sys.stderr.write(
            "cannot fetch the artifact: artifact-dir or management-endpoint is missing; set both\n"
        )
        return ExitCode.USAGE
    try:
        asyncio.run(_fetch(settings, settings.artifact_dir))
    except SkysailError as error:
        write_error(error, settings.log_format)
        return ExitCode.UNAVAILABLE if isinstance(error, Unavailable) else ExitCode.FAILED
    return ExitCode.OK


async def _fetch(settings: ModelServerSettings, directory: Path) -> None:
    if settings.cache_dir is not None and settings.cache_dir in directory.parents:
        sweep(directory)
    await download_artifact(settings.artifact_access(), directory, settings.download_options())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
