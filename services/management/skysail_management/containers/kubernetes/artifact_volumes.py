"""The volume with the artifact of a pod: its own, or one that the pods of a node share.

<volume>/blobs, partial              the cache, in which the files of all artifacts are
<volume>/unpacked/<node>/<pod uid>   links to the files of one artifact; all that the model server sees

An init container fills it. The model server, which runs code of users, never writes to it.
"""

from dataclasses import dataclass

from skysail_common.kubernetes.kinds import Object
from skysail_management.settings import ManagementSettings

_NAME = "artifact"
_ARTIFACT, _CACHE = "/artifact", "/cache"
_POD_DIRECTORY = "unpacked/$(SKYSAIL_NODE)/$(SKYSAIL_POD)"
_POD_IDENTITY: tuple[Object, ...] = (
    {"name": "SKYSAIL_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    {"name": "SKYSAIL_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
)


@dataclass(frozen=True)
class ContainerShare:
    """The part of the volume that a container sees."""

    mount: Object
    variables: tuple[Object, ...]


@dataclass(frozen=True)
class ArtifactVolume:
    """The volume, and the shares of the two containers."""

    volume: Object
    fetcher: ContainerShare
    server: ContainerShare


def artifact_volume(settings: ManagementSettings) -> ArtifactVolume:
    """Return the volume by these settings."""
    source = _shared_source(settings)
    directory = _variable("ARTIFACT_DIR", _ARTIFACT)
    if source is None:
        mount = {"name": _NAME, "mountPath": _ARTIFACT}
        return ArtifactVolume(
            {"name": _NAME, "emptyDir": {}},
            ContainerShare(mount, (directory,)),
            ContainerShare({**mount, "readOnly": True}, (directory,)),
        )
    return ArtifactVolume(
        {"name": _NAME, **source},
        ContainerShare(
            {"name": _NAME, "mountPath": _CACHE},
            (
                *_POD_IDENTITY,
                _variable("ARTIFACT_DIR", f"{_CACHE}/{_POD_DIRECTORY}"),
                _variable("CACHE_DIR", _CACHE),
                _variable("CACHE_MAX_MIB", str(settings.kubernetes_cache_max_mib)),
            ),
        ),
        ContainerShare(
            {
                "name": _NAME,
                "mountPath": _ARTIFACT,
                "subPathExpr": _POD_DIRECTORY,
                "readOnly": True,
            },
            (*_POD_IDENTITY, directory),
        ),
    )


def _shared_source(settings: ManagementSettings) -> Object | None:
    if settings.kubernetes_cache_claim:
        return {"persistentVolumeClaim": {"claimName": settings.kubernetes_cache_claim}}
    if settings.kubernetes_cache_host_path:
        path = settings.kubernetes_cache_host_path
        return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    return None


def _variable(name: str, value: str) -> Object:
    return {"name": f"SKYSAIL_MODEL_SERVER_{name}", "value": value}
