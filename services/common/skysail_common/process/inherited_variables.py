"""The environment variables that local replicas and installations inherit from management.

Replicas run the code of users, which must not see the credentials in an operator's shell: those of
clouds, package indexes and clusters.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from skysail_common.process.pip_configuration import PROXIES, package_variables
from skysail_common.rpc.transports import VARIABLE

REPLICA_VARIABLES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*", "XDG_*",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "MALLOC_*",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "CUDA_*", "NVIDIA_*", "NCCL_*", "ROCR_*", "HIP_*", "HSA_*",
    "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "NUMEXPR_*", "VECLIB_*", "NUMBA_*",
    "TORCH_*", "PYTORCH_*", "TF_*", "XLA_*", "JAX_*", "ORT_*", "HF_HOME", "GRPC_*",
    VARIABLE,
)  # fmt: skip
"""Names and patterns of the variables that replicas inherit, besides proxies without a password."""

_CREDENTIALS = (
    "*_KEY", "*_KEY_*", "*TOKEN*", "*SECRET*", "*PASSWORD*", "*PASSWD*", "*CREDENTIAL*", "TF_VAR_*",
)  # fmt: skip
"""Names that the patterns above match by accident, such as NVIDIA_API_KEY and those of
Terraform."""

_BUILD_VARIABLES = (
    "CC", "CXX", "FC", "AR", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS",
    "PKG_CONFIG_*", "CMAKE_*", "CARGO_HOME", "RUSTUP_HOME", "RUSTFLAGS", "NETRC",
    "UV_CACHE_DIR", "UV_CONCURRENT_*", "UV_LINK_MODE", "UV_NO_CONFIG", "UV_CONFIG_FILE",
)  # fmt: skip


def replica_variables(
    environment: Mapping[str, str], pass_env: Collection[str] = ()
) -> dict[str, str]:
    """Return the variables that local replicas inherit.

    Args:
        environment: The environment of management.
        pass_env: Names, or patterns such as `AWS_*`, of further variables; those of Skysail never
            pass.
    """
    return {
        name: value
        for name, value in environment.items()
        if (_matches(name, REPLICA_VARIABLES) and not _matches(name, _CREDENTIALS))
        or _is_plain_proxy(name, value)
        or (_matches(name, pass_env) and not name.startswith("SKYSAIL_"))
    }


def install_variables(
    environment: Mapping[str, str], pass_env: Collection[str] = ()
) -> dict[str, str]:
    """Return the variables that pip and uv inherit on this machine, including those for builds."""
    building = {
        name: value for name, value in environment.items() if _matches(name, _BUILD_VARIABLES)
    }
    return {
        **replica_variables(environment, pass_env),
        **package_variables(environment),
        **building,
    }


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_plain_proxy(name: str, value: str) -> bool:
    # The text before an `@` is a user and a password.
    return name.lower() in PROXIES and "@" not in value
