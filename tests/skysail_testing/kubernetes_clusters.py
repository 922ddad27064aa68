"""The Kubernetes cluster of the tests: SKYSAIL_TEST_KUBECONFIG, or that of `../shared/kubernetes/cluster`.

The node must be this machine because tests and pods connect to each other.
"""

import fcntl
import functools
import hashlib
import http.server
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysail_management.settings import ManagementSettings

IMAGE = ManagementSettings.model_fields["kubernetes_image"].default
PACKAGES_CLAIM = "packages"

_COMMAND = Path(__file__).parents[3] / "shared" / "kubernetes" / "cluster"
# This copy precedes the changes of the plugin.
_ENVIRONMENT = dict(os.environ)


class KubernetesCluster:
    """A cluster, with the objects that tests create in it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.namespaces: list[str] = []
        self.volumes: list[str] = []
        self._server: http.server.ThreadingHTTPServer | None = None
        self._served: dict[str, Path] = {}
        # Locks between test processes: the node itself, and the turn to lock it.
        self._node, self._turn = (os.open(path, os.O_RDONLY) for path in (config, config.parent))

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """Run kubectl and return its output."""
        command = ["kubectl", "--kubeconfig", str(self.config), *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, input=stdin, timeout=timeout_s
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> dict:
        return json.loads(self.kubectl(*arguments, "--output", "json"))

    @functools.cached_property
    def node_address(self) -> str:
        """Address at which pods reach this machine."""
        (node,) = self.json("get", "nodes")["items"]
        addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
        return addresses["InternalIP"]

    def begin_test(self) -> None:
        """Share the node with tests of other processes."""
        self._hold_node(fcntl.LOCK_SH)

    def end_test(self) -> None:
        fcntl.flock(self._node, fcntl.LOCK_UN)

    def _hold_node(self, how: int) -> None:
        # The turn keeps shared holders from starving an exclusive one.
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        fcntl.flock(self._node, how)
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    @contextmanager
    def cordoned_node(self) -> Iterator[None]:
        """Cordon the only node inside the block, while no other test needs it."""
        (node,) = self.json("get", "nodes")["items"]
        name = node["metadata"]["name"]
        self._hold_node(fcntl.LOCK_EX)
        try:
            self.kubectl("cordon", name)
            yield
        finally:
            self.kubectl("uncordon", name)
            fcntl.flock(self._node, fcntl.LOCK_SH)

    def new_namespace(self) -> str:
        """Create a namespace, which `clean_up` removes at the end of the run."""
        name = f"skt-{secrets.token_hex(4)}"
        self.kubectl("create", "namespace", name)
        self.namespaces.append(name)
        return name

    @functools.cached_property
    def shared_namespace(self) -> str:
        """A namespace with a volume for packages, shared by the clusters of many tests."""
        name = self.new_namespace()
        directory = Path(tempfile.mkdtemp(prefix="pytest-packages"))
        directory.chmod(0o777)
        volume = f"{name}-packages"
        self.volumes.append(volume)
        size = {"storage": "1Gi"}
        modes = ["ReadWriteMany"]
        objects = [
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
                "spec": {
                    "capacity": size, "accessModes": modes, "storageClassName": "",
                    "hostPath": {"path": str(directory)},
                },
            },
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": PACKAGES_CLAIM, "namespace": name},
                "spec": {
                    "accessModes": modes, "storageClassName": "", "volumeName": volume,
                    "resources": {"requests": size},
                },
            },
        ]  # fmt: skip
        bundle = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(bundle))
        return name

    def kill_model_server(self, namespace: str, pod: str) -> None:
        """Kill the process of a replica with SIGKILL, as the kernel would."""
        program = (
            "import os, pathlib\n"
            "for each in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
            "    words = each.read_bytes().split(b'\\0')\n"
            "    if b'skysail_model_server' in words and int(each.parent.name) != os.getpid():\n"
            "        os.kill(int(each.parent.name), 9)\n"
        )
        command = ["exec", pod, "--namespace", namespace, "--container", "model-server", "--"]
        # The container may end before kubectl gets its answer.
        subprocess.run(
            ["kubectl", "--kubeconfig", str(self.config), *command, "python", "-c", program],
            check=False, capture_output=True, timeout=60,
        )  # fmt: skip

    def serve(self, directory: Path) -> str:
        """Serve the files of a directory to pods over HTTP; return the URL."""
        if self._server is None:
            served = self._served

            class Handler(http.server.SimpleHTTPRequestHandler):
                def translate_path(self, path: str) -> str:
                    key, _, name = path.strip("/").partition("/")
                    return str(served.get(key, Path("/nowhere")) / name)

                def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                    return

            self._server = http.server.ThreadingHTTPServer((self.node_address, 0), Handler)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        key = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        self._served[key] = directory
        return f"http://{self.node_address}:{self._server.server_port}/{key}"

    def clean_up(self) -> None:
        """Remove the namespaces and volumes of the tests."""
        for descriptor in (self._node, self._turn):
            os.close(descriptor)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self.namespaces:
            self.kubectl("delete", "namespace", *self.namespaces, "--timeout=90s")
        if self.volumes:
            self.kubectl("delete", "persistentvolume", *self.volumes, "--timeout=30s")


@functools.cache
def kubernetes_cluster() -> KubernetesCluster:
    """Return the cluster of this run; check `why_no_kubernetes` first."""
    found = _config()
    assert found is not None
    return KubernetesCluster(found)


def _config() -> Path | None:
    if named := _ENVIRONMENT.get("SKYSAIL_TEST_KUBECONFIG"):
        return Path(named)
    if not _COMMAND.exists():
        return None
    command = [str(_COMMAND), "kubeconfig"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_ENVIRONMENT)
    path = Path(done.stdout.strip())
    return path if done.returncode == 0 and path.is_file() else None


@functools.cache
def why_no_kubernetes() -> str:
    """Return the reason to skip tests on Kubernetes; empty if they can run."""
    if shutil.which("kubectl") is None:
        return "no kubernetes: kubectl is not on this machine"
    if _config() is None:
        return "no kubernetes cluster runs here; SKYSAIL_TEST_KUBECONFIG may name one"
    try:
        kubernetes_cluster().json("get", "nodes")
    except (AssertionError, subprocess.SubprocessError):
        return "no kubernetes cluster answers"
    return ""


class Registry:
    """The private registry of the cluster, from which its node pulls."""

    address = "localhost:5005"
    user = "skysail"
    password = "harbour"

    def push(self, image: str) -> None:
        """Push the image of the model server under another name."""
        # The login must not outlive the test.
        with tempfile.TemporaryDirectory() as directory:
            docker = ["docker", "--config", directory]
            login = ["login", self.address, "--username", self.user, "--password-stdin"]
            for command, text in (
                ([*docker, "tag", IMAGE, image], None),
                ([*docker, *login], self.password),
                ([*docker, "push", image], None),
                ([*docker, "rmi", image], None),
            ):
                subprocess.run(
                    command, input=text, check=True, capture_output=True, text=True, timeout=120
                )


REGISTRY = Registry()


@functools.cache
def why_no_registry() -> str:
    """Return the reason to skip tests with a private registry; empty if they can run."""
    if _ENVIRONMENT.get("SKYSAIL_TEST_KUBECONFIG"):
        return "no registry of which the password is known"
    try:
        subprocess.run(["docker", "image", "inspect", IMAGE], check=True, capture_output=True)
    except (subprocess.SubprocessError, FileNotFoundError):
        return f"no docker engine with the image {IMAGE} is here"
    return ""


def clean_up() -> None:
    """Remove all objects of this run from the cluster."""
    if kubernetes_cluster.cache_info().currsize:
        kubernetes_cluster().clean_up()
