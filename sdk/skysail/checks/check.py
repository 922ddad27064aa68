"""The check of a model: its artifact is loaded as a replica would load it, in a clean environment."""

import contextlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.requirements import read_requirements
from skysail.checks.clean_environment import EnvironmentFailed, clean_environment
from skysail.checks.report import CheckReport
from skysail.packaging.pins import is_installed
from skysail.settings import cache_directory, check_variables
from skysail_common.artifacts import MANIFEST_FILE
from skysail_common.errors import FailedPrecondition, InvalidInput

DEFAULT_TIMEOUT_S = 600.0
_MODULE = "skysail_model_server"
_LOG_BYTES = 64 * 1024


def check(
    source: Any,
    *,
    pkgs_to_install: Sequence[str] = (),
    requirements: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: bool | Callable[[str], None] | None = None,
    **options: Any,
) -> CheckReport:
    """Return whether a replica could serve a model, without a cluster.

    The model is packaged as by `deploy`. Another process then loads it and answers the example. It
    has only Skysail, the packages of the version and what travels, as a replica in a container has:
    neither the other packages of this machine, nor the directory of the sources.

    Args:
        source: The model, as for `deploy`.
        pkgs_to_install: As for `deploy`.
        requirements: As for `deploy`.
        environment: Environment variables of the replicas.
        timeout_s: Longest time of the installation, and again of the load, in seconds.
        progress: Called with each line of the installation.
        options: Other arguments of `deploy`. Those that shape the artifact, such as `example` and
            `files`, apply; the others change nothing here.

    Raises:
        InvalidInput: as for `deploy`.
        ModelFailed: as for `deploy`.
        FailedPrecondition: the model server is not installed here.
    """
    if not is_installed(_MODULE):
        raise FailedPrecondition(
            f"cannot check the model: the package {_MODULE} is not installed here; install the whole "
            "wheel of Skysail"
        )
    begin = perf_counter()
    artifact = build_artifact(
        source,
        requirements=read_requirements(pkgs_to_install, requirements),
        **_options_of_artifacts(options),
    )
    build_s = perf_counter() - begin
    try:
        with tempfile.TemporaryDirectory(prefix="skysail-check-") as work:
            found = _run(
                artifact,
                Path(work),
                check_variables(environment or {}),
                timeout_s,
                progress if callable(progress) else lambda line: None,
            )
    finally:
        artifact.close()
    manifest = artifact.manifest
    return CheckReport(
        signature=artifact.signature,
        requirements=manifest.requirements,
        packages=tuple(f"{name}=={version}" for name, version in manifest.packages.items()),
        num_files=len(manifest.blobs),
        size_bytes=sum(blob.size_bytes for blob in manifest.blobs),
        build_s=build_s,
        **found,
    )


def _options_of_artifacts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `deploy` that shape an artifact.

    Raises:
        InvalidInput: `deploy` has no argument of a name.
    """
    # The import is here because the client imports this module.
    from skysail.client import Client

    known = inspect.signature(Client.deploy).parameters
    for name in options:
        if name not in known:
            raise InvalidInput(f"cannot check the model: deploy has no argument {name!r}")
    own = inspect.signature(build_artifact).parameters
    return {name: value for name, value in options.items() if name in own}


def _run(
    artifact: Artifact,
    work: Path,
    variables: Mapping[str, str],
    timeout_s: float,
    show: Callable[[str], None],
) -> dict[str, Any]:
    """Load an artifact in a clean environment, and return the fields of the report about that."""
    directory = work / "artifact"
    unpack(artifact, directory)
    begin = perf_counter()
    try:
        python = clean_environment(
            cache_directory() / "environments",
            artifact.manifest.requirements,
            directory,
            variables,
            timeout_s,
            show,
        )
    except EnvironmentFailed as error:
        return {"problem": error.message, "environment_s": perf_counter() - begin}
    environment_s = perf_counter() - begin
    report, log = work / "report.json", work / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Isolated, Python sees neither PYTHONPATH nor the working directory.
            [str(python), "-I", "-m", f"{_MODULE}.check", str(directory), str(report)],
            cwd=work,
            env={**variables, "TMPDIR": str(work)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Child processes of the user's code end too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
    found = {"environment_s": environment_s, "log": text}
    if not report.exists():
        reason = (
            f"it does not answer within {timeout_s:g} s"
            if status is None
            else f"its process ended with status {status}"
        )
        return {**found, "problem": f"loading the model failed: {reason}; see the log"}
    loaded = json.loads(report.read_text(encoding="utf-8"))
    return {
        **found,
        "problem": loaded["problem"],
        "log": f"{text}\n{loaded['details']}".strip(),
        "load_s": loaded["load_s"],
        "answer_s": loaded["answer_s"],
    }


def unpack(artifact: Artifact, directory: Path) -> None:
    """Write the files of an artifact, as a replica has them."""
    directory.mkdir()
    for name, source in {MANIFEST_FILE: artifact.manifest_bytes, **artifact.files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            # The model gets copies, which it may damage.
            shutil.copyfile(source, path)
        else:
            path.write_bytes(source)
