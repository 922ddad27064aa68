"""Settings of libraries for a whole process, which loaders change in replicas only."""

import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest

from skysail_common.loaders import tensorflow_runtime, torch_tensors
from skysail_common.loaders.base import ModelContext

HERE = ModelContext(num_threads=3)
REPLICA = ModelContext(num_threads=3, owns_process=True)


class Library(ModuleType):
    """A library whose calls are recorded."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.config = MagicMock()
        self.set_num_threads = MagicMock()
        self.config.list_physical_devices.return_value = ["GPU:0"]


@pytest.fixture
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


@pytest.mark.parametrize("library", ["tensorflow"], indirect=True)
def test_tensorflow_keeps_the_devices_and_threads_of_the_users_program(library: Library):
    tensorflow_runtime.prepare(HERE)
    library.config.set_visible_devices.assert_not_called()
    library.config.threading.set_intra_op_parallelism_threads.assert_not_called()


@pytest.mark.parametrize("library", ["tensorflow"], indirect=True)
def test_tensorflow_has_the_device_and_threads_of_a_replica(library: Library):
    tensorflow_runtime.prepare(REPLICA)
    library.config.set_visible_devices.assert_called_once_with([], "GPU")
    library.config.threading.set_intra_op_parallelism_threads.assert_called_once_with(3)


@pytest.mark.parametrize("library", ["torch"], indirect=True)
def test_torch_keeps_the_threads_of_the_users_program(library: Library):
    torch_tensors.prepare(HERE)
    library.set_num_threads.assert_not_called()


@pytest.mark.parametrize("library", ["torch"], indirect=True)
def test_torch_has_the_threads_of_a_replica(library: Library):
    torch_tensors.prepare(REPLICA)
    library.set_num_threads.assert_called_once_with(3)
