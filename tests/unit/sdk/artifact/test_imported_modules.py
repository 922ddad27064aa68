"""A function of an imported module travels with the state of its module, as in a notebook."""

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.pickling import pickle_function
from skysail_common.errors import InvalidInput
from skysail_testing.artifacts import files_of, members_of, run_in_replica

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.ones((1, 2))


def load(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def answer(tmp_path: Path):
    def answer(artifact: Artifact) -> str:
        return run_in_replica(artifact, tmp_path / "replica")

    return answer


TRAINS = """
from pathlib import Path
DATA = Path("/nowhere/at/all/train.csv") if "modules" in __file__ else None
if DATA is not None:
    raise RuntimeError("trained again")
WEIGHT = 3.0
LOADED = []

def helper(x):
    LOADED.append(1)
    return x * WEIGHT

def predict(x):
    return helper(x)

class Model:
    def __init__(self, weight):
        self.weight = weight

    def predict(self, x):
        return helper(x) * self.weight

model = Model(2.0)
"""


def test_a_module_that_trains_when_it_is_imported_trains_once(write, answer):
    write("trains_a.py", TRAINS)
    artifact = build_artifact(load("trains_a").predict, example=X)
    assert files_of(artifact) == ["trains_a.py"]
    assert answer(artifact) == "[[3.0, 3.0]]"


def test_comments_in_the_module_are_not_content(write):
    file = write("noted.py", TRAINS)
    before = build_artifact(load("noted").predict, example=X).sha256
    file.write_text("# Noted.\n\n" + TRAINS.replace("WEIGHT = 3.0", "WEIGHT = 3.0  # Why."))
    importlib.reload(load("noted"))
    assert build_artifact(load("noted").predict, example=X).sha256 == before
    file.write_text(TRAINS.replace("WEIGHT = 3.0", "WEIGHT = 4.0"))
    importlib.reload(load("noted"))
    assert build_artifact(load("noted").predict, example=X).sha256 != before


def test_a_method_of_an_object_of_the_module_travels_by_value_too(write, answer):
    write("trains_b/__init__.py", "from trains_b.model import model, Model, WEIGHT")
    write("trains_b/model.py", TRAINS)
    assert answer(build_artifact(load("trains_b").model.predict, example=X)) == "[[6.0, 6.0]]"


def test_replicas_start_with_the_state_of_the_deploy(write, answer):
    write("trains_c.py", TRAINS)
    module = load("trains_c")
    module.WEIGHT = 5.0
    assert answer(build_artifact(module.predict, example=X)) == "[[5.0, 5.0]]"


def test_a_package_whose_init_has_the_function_needs_no_training(write, answer):
    source = TRAINS.replace(
        "return helper(x)\n", "from .part import ONE\n    return helper(x) + ONE\n", 1
    )
    write("trains_d/__init__.py", source)
    write("trains_d/part.py", "ONE = 1.0")
    assert answer(build_artifact(load("trains_d").predict, example=X)) == "[[4.0, 4.0]]"


def test_modules_that_import_the_captured_one_find_all_of_it(write, answer):
    write("whole/__init__.py", "from whole.model import predict, unused")
    write(
        "whole/model.py",
        """
        OTHER = 7.0

        def unused():
            return OTHER

        def predict(x):
            from .features import scale
            return scale(x)
        """,
    )
    write("whole/features.py", "import whole.model\ndef scale(x): return x * whole.model.unused()")
    assert answer(build_artifact(load("whole.model").predict, example=X)) == "[[7.0, 7.0]]"


def test_modules_that_read_the_version_of_the_captured_one_find_it(write, answer):
    write(
        "versioned.py",
        "__version__ = '4'\ndef predict(x):\n    import reads\n    return reads.f(x)",
    )
    write("reads.py", "import versioned\ndef f(x): return x * float(versioned.__version__)")
    assert answer(build_artifact(load("versioned").predict, example=X)) == "[[4.0, 4.0]]"


def test_a_probe_for_a_name_that_the_captured_module_lacks_does_not_execute_it(write, answer):
    write("probed.py", TRAINS + "\ndef probes(x):\n    import probing\n    return probing.f(x)")
    write("probing.py", "import probed\ndef f(x): return x + hasattr(probed, '__odd__')")
    assert answer(build_artifact(load("probed").probes, example=X)) == "[[1.0, 1.0]]"


def test_a_star_import_of_the_captured_module_finds_all_of_it(write, answer):
    write("star/__init__.py", "from star.model import *")
    write(
        "star/model.py",
        """
        _HIDDEN = 1
        OTHER = 6.0

        def predict(x):
            import star
            assert not hasattr(star, "_HIDDEN")
            return x * star.OTHER
        """,
    )
    assert answer(build_artifact(load("star.model").predict, example=X)) == "[[6.0, 6.0]]"


def test_a_captured_module_whose_source_fails_says_why(write, answer):
    write("broken/__init__.py")
    write(
        "broken/model.py",
        """
        if "modules" in __file__:
            raise RuntimeError("trained again")
        def unused(): pass
        def predict(x):
            from broken import other
            return x
        """,
    )
    write("broken/other.py", "from broken.model import unused")
    found = answer(build_artifact(load("broken.model").predict, example=X))
    assert "RuntimeError: trained again" in found


def test_process_pools_find_functions_of_the_module_by_name(write, answer):
    write(
        "pools.py",
        """
        import pickle
        import numpy as np

        class Row:
            def __init__(self, value):
                self.value = value

        def work(row):
            return row.value * 2

        def predict(x):
            # As a pool does.
            again = pickle.loads(pickle.dumps((work, [Row(each) for each in x])))
            return np.array([again[0](row) for row in again[1]])
        """,
    )
    assert answer(build_artifact(load("pools").predict, example=X)) == "[[2.0, 2.0]]"


def test_paths_of_the_module_lead_to_its_files_there(write, answer):
    write("paths/__init__.py")
    write("paths/data/factor.txt", "4")
    write(
        "paths/model.py",
        """
        import os
        from pathlib import Path
        HERE = Path(__file__).parent
        FOLDER = os.path.join(os.path.dirname(__file__), "data")

        def predict(x):
            places = HERE / "data", Path(FOLDER), Path(__file__).with_name("data")
            one, two, three = [float((place / "factor.txt").read_text()) for place in places]
            return x * one * two * three
        """,
    )
    assert answer(build_artifact(load("paths.model").predict, example=X)) == "[[64.0, 64.0]]"


def test_paths_behind_a_link_lead_to_the_files_there(
    write, user_dir: Path, tmp_path: Path, monkeypatch, answer
):
    write("behind/__init__.py")
    write("behind/factor.txt", "4")
    write(
        "behind/model.py",
        """
        from pathlib import Path
        HERE = Path(__file__).resolve().parent
        def predict(x):
            return x * float((HERE / "factor.txt").read_text())
        """,
    )
    (tmp_path / "link").symlink_to(user_dir)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "link"), *sys.path])
    artifact = build_artifact(load("behind.model").predict, example=X)
    assert str(user_dir).encode() not in members_of(artifact)["model.pkl"]
    assert answer(artifact) == "[[4.0, 4.0]]"


def test_a_module_with_something_that_cannot_be_pickled_is_imported(write, answer):
    write(
        "locked.py",
        """
        import threading
        LOCK = threading.Lock()

        def predict(x):
            with LOCK:
                return x * 9
        """,
    )
    artifact = build_artifact(load("locked").predict, example=X)
    assert "LOCK (a lock)" in artifact.manifest.import_reason
    assert answer(artifact) == "[[9.0, 9.0]]"


def test_the_reason_of_an_import_is_shown_if_the_import_fails(write, answer):
    write(
        "fails_there.py",
        """
        import threading
        LOCK = threading.Lock()
        if "modules" in __file__:
            raise FileNotFoundError("train.csv")

        def predict(x):
            with LOCK:
                return x
        """,
    )
    artifact = build_artifact(load("fails_there").predict, example=X)
    assert (
        "the replica imports module 'fails_there' from its source, because its state cannot be "
        "pickled: cannot pickle the function: LOCK (a lock): TypeError"
    ) in answer(artifact)


def test_a_function_of_the_notebook_takes_modules_as_they_are(write, answer):
    write("taken.py", "import threading\nLOCK = threading.Lock()\ndef double(x): return x * 2")
    double = load("taken").double
    assert answer(build_artifact(lambda x: double(x), example=X)) == "[[2.0, 2.0]]"


def test_functions_of_installed_packages_travel_by_name():
    assert pickle.loads(pickle_function(np.tanh).content) is np.tanh
    assert pickle.loads(pickle_function(np.linalg.norm).content) is np.linalg.norm


def test_a_relative_import_in_a_program_of_a_package(write, user_dir: Path, answer):
    write("rel/__init__.py")
    write("rel/parts/__init__.py")
    write("rel/parts/features.py", "def scale(x): return x * 8")
    namespace: dict[str, Any] = {"__name__": "__main__", "__package__": "rel.parts"}
    source = """
def predict(x):
    from .features import scale
    from ..parts import features
    return scale(x) * features.scale(1)
"""
    exec(source, namespace)
    artifact = build_artifact(namespace["predict"], example=X)
    assert "rel/parts/features.py" in files_of(artifact)
    assert answer(artifact) == "[[64.0, 64.0]]"


def test_a_relative_import_without_a_package_is_the_function_s_own_matter():
    namespace: dict[str, Any] = {"__name__": "__main__", "__package__": None}
    exec("def predict(x):\n    from .nowhere import scale\n    return scale(x)\n", namespace)
    assert not any("nowhere" in name for name in pickle_function(namespace["predict"]).modules)


def test_an_error_without_state_and_source(write):
    write("unpicklable.py", "import threading")
    module = load("unpicklable")
    lock = __import__("threading").Lock()

    class Model:
        def predict(self, x):
            return module, lock

    with pytest.raises(InvalidInput, match=r"lock \(a lock\)"):
        pickle_function(Model().predict)
