"""Equal source gives an equal artifact, in any process, file and directory, with any comments."""

import hashlib
import importlib
import linecache
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail.artifact.build import build_artifact
from skysail.artifact.pickling import pickle_function
from skysail_testing.examples import examples

X = np.ones((2, 2))

SOURCE = '''
import abc, collections, dataclasses, enum, functools, threading, types
from typing import Generic, NamedTuple, TypeVar
import numpy as np

T = TypeVar("T")
WORDS = {"b", "a", "c", "d"}

class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"

NESTED = {"en": [{"the", "a", "of"}, ("x", frozenset({"y", "z", "w"}))]}
COLOURS = {Colour.RED, Colour.BLUE}
PAIRS = {("a", 1), ("b", 2), ("c", 3)}
CLASSES = {int, str, float, dict, Colour}
KEYWORD = functools.partial(print, end={"q", "r", "s"})

@dataclasses.dataclass
class Options:
    scale: int = 2
    names: set = dataclasses.field(default_factory=lambda: {"x", "y", "z"})

@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("letters",)
    letters: frozenset

    def __getstate__(self):
        return (None, {"letters": self.letters})

    def __setstate__(self, state):
        object.__setattr__(self, "letters", state[1]["letters"])

@dataclasses.dataclass
class Defaults:
    known: frozenset = frozenset({"h", "i", "j"})

Point = collections.namedtuple("Point", "x y")

class Pair(NamedTuple):
    z: int

class Base(abc.ABC, Generic[T]):
    @abc.abstractmethod
    def one(self): ...
    @abc.abstractmethod
    def two(self): ...

class Model(Base[int]):
    """A model."""

    stopped = {"the", "a", "of"}

    def __init__(self):
        self.words = frozenset({"q", "r", "s"})
        self.options = Options()
        self.slotted = Slotted(frozenset({"u", "v", "w"}))
        self.defaults = Defaults()
        self.space = types.SimpleNamespace(letters={"f", "g", "e"})
        self._lock = None

    def one(self):
        return len(self.words)

    def two(self):
        return self.__class__ is Model

    @property
    def lock(self):
        if self._lock is None:
            self._lock = threading.Lock()
        return self._lock

    @functools.cached_property
    def session(self):
        return threading.Lock()

    @functools.lru_cache
    def cached(self, n):
        return n

    def predict(self, x, known={"k", "l", "m"}):
        if "q" in {"r", "s", "t", "u"}:
            return 1
        with self.session, self.lock:
            return x * self.options.scale + self.one() + self.cached(1) + len(self.stopped & known)

@functools.cache
def session():
    return threading.Lock()

@functools.cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

model = Model()
connection = None

def predict(x):
    global connection
    if connection is None:
        connection = threading.Lock()

    def inner(y, *, stopped={"k", "l", "m"}):
        return y + len(WORDS) + len((NESTED, COLOURS, PAIRS, CLASSES, KEYWORD))

    with session(), connection:
        parts = Point(1, 2).x + Pair(3).z + len(Colour.BLUE.value) + fib(5)
        return inner(model.predict(x)) + parts
'''


def run(source: str, filename: str) -> Any:
    """Return `predict` of a script that ran with this name."""
    # linecache gets the lines, as from a notebook.
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    # dataclasses look up the module of a class.
    main = sys.modules["__main__"]
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": filename}
    try:
        exec(compile(source, filename, "exec"), namespace)
    finally:
        assert sys.modules["__main__"] is main
    return namespace["predict"]


def sha256(source: str, filename: str = "/home/a/script.py") -> str:
    return build_artifact(run(source, filename), example=X).sha256


def commented(source: str) -> str:
    lines = ["# A note.", ""]
    for line in source.splitlines():
        if line.strip() and line.startswith(" ") and '"""' not in line:
            lines += ["", f"{' ' * (len(line) - len(line.lstrip()))}# Why."]
        lines.append(f"{line}  # and more" if line.endswith(")") else line)
    return "\n".join(lines) + "\n"


def test_the_script_answers():
    expected = X * 2 + 3 + 1 + 0 + 4 + 5 + 1 + 3 + 1 + 5
    assert run(SOURCE, "/a.py")(X).tolist() == expected.tolist()


def test_comments_and_empty_lines_are_not_content():
    source = commented(SOURCE)
    assert source.count("#") > 30
    assert sha256(source) == sha256(SOURCE)


@pytest.mark.parametrize(
    "filename",
    ["/tmp/ipykernel_1234/987654.py", "<ipython-input-3-aabbcc>", "<stdin>", "/build/7/script.py"],
)
def test_the_name_of_the_file_is_not_content(filename):
    assert sha256(SOURCE, filename) == sha256(SOURCE)


def test_code_and_data_are_content():
    others = [
        SOURCE.replace("scale: int = 2", "scale: int = 3"),
        SOURCE.replace("return y + len(WORDS)", "return y - len(WORDS)"),
        SOURCE.replace('{"b", "a", "c", "d"}', '{"b", "a", "c", "e"}'),
        SOURCE.replace('RED = "r"', 'RED = "g"'),
    ]
    assert len({sha256(each) for each in (SOURCE, *others)}) == 5


def test_a_call_does_not_change_the_artifact():
    predict = run(SOURCE, "/a.py")
    first = build_artifact(predict, example=X).sha256
    predict(X)
    assert build_artifact(predict, example=X).sha256 == first
    assert sha256(SOURCE) == first


PROGRAM = """
import sys
from pathlib import Path
sys.argv[1:] = []
{source}
from skysail.artifact.build import build_artifact
print(build_artifact(predict, example=np.ones((2, 2))).sha256)
"""


def printed(arguments: list[str], seed: str, directory: Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()


def test_every_process_and_directory_makes_the_same_artifact(tmp_path: Path):
    found = set()
    for seed in ("1", "2"):
        directory = tmp_path / f"checkout{seed}"
        directory.mkdir()
        (directory / "train.py").write_text(PROGRAM.format(source=SOURCE))
        found.add(printed(["train.py"], seed, directory))
    assert len(found) == 1


MODULE = """
from pathlib import Path
import os
HERE = Path(__file__).parent
TEXT_HERE = os.path.dirname(__file__)
TEXT = "no risk at all"
LABELS = ["no risk at all", TEXT]

def scale(x):
    return x * len(TEXT)

def predict(x):
    assert HERE.name and TEXT_HERE and __file__
    if LABELS[0] == "no risk at all":
        return scale(x)
    return x
"""


def test_every_checkout_makes_the_same_artifact_of_a_module(tmp_path: Path):
    found = set()
    program = (
        "import numpy as np; from pkg.model import predict; "
        "from skysail.artifact.build import build_artifact; "
        "print(build_artifact(predict, example=np.ones((1, 2))).sha256)"
    )
    for seed in ("1", "2"):
        package = tmp_path / f"checkout{seed}" / "pkg"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "model.py").write_text(MODULE)
        found.add(printed(["-c", program], seed, package.parent))
    # The second run uses the compiled modules of the first.
    found.add(printed(["-c", program], "3", package.parent))
    assert len(found) == 1


BODIES = st.lists(
    st.sampled_from(
        [
            "y = x + 1",
            "y = [each for each in (1, 2)]",
            "y = {'a', 'b', 'c', 'd', 'e'} & {str(x)}",
            "for index in range(3): x = x * 1",
            "x = (x +\n         1)",
            "if len(x) > 900:\n        raise ValueError('a'\n                         'b')",
            "f = lambda z: z + 1",
            "def g(z):\n        return z",
        ]
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(40))
@given(BODIES, st.integers(0, 2000), st.lists(st.integers(0, 30), max_size=6))
def test_lines_without_code_never_matter(body, num_before, places):
    lines = "\n".join(["def predict(x):", *(f"    {line}" for line in body), "    return x"])
    plain = pickle_function(run(f"{lines}\n", "/a.py"))
    shifted = lines.split("\n")
    for place in places:
        shifted.insert(1 + place % len(shifted), "        # A comment.")
    moved = pickle_function(run("\n" * num_before + "\n".join(shifted) + "\n", "/b/c.py"))
    assert plain.content == moved.content
    assert plain.sources == moved.sources
    before, after = run(f"{lines}\n", "/a.py"), pickle.loads(plain.content)
    assert before(X).tolist() == after(X).tolist()


def lines_of(code: Any) -> list[int | None]:
    return [line for begin, end, line in code.co_lines() for _ in range(begin, end, 2)]


@settings(max_examples=examples(40))
@given(BODIES, st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_lines_with_code_are_numbered_in_order(body, gaps):
    parts = ["def predict(x):"]
    for index, line in enumerate(body):
        parts += [*[""] * gaps[index % len(gaps)], f"    {line}"]
    function = run("\n".join([*parts, "    return x", ""]), "/a.py")
    code, loaded = function.__code__, pickle.loads(pickle_function(function).content).__code__
    expected, found = lines_of(code), lines_of(loaded)
    numbers = sorted({code.co_firstlineno, *filter(None, expected)})
    assert found == [line and numbers.index(line) + 1 for line in expected]
    assert loaded.co_code == code.co_code
    assert loaded.co_firstlineno == 1


def test_a_traceback_of_a_loaded_function_has_its_lines(monkeypatch):
    source = """
    # About predict.
    def predict(x):
        y = x + 1

        # This fails.
        return y / 0  # at once
    """
    function = run("if True:" + source, "/a/b.py")
    pickled = pickle_function(function)
    assert pickled.sources == {
        "<__main__.predict>": ["def predict(x):", "y = x + 1", "return y / 0"]
    }
    with pytest.raises(ZeroDivisionError) as caught:
        pickle.loads(pickled.content)(1)
    frame = caught.traceback[-1]
    assert (str(frame.frame.code.raw.co_filename), frame.lineno + 1) == ("<__main__.predict>", 3)


def test_the_line_of_a_lambda_is_no_part_of_it():
    one = run("predict = (lambda x: x + 1, 'version 1')[0]\n", "/a.py")
    two = run("predict = (lambda x: x + 1, 'version 2')[0]\n", "/a.py")
    assert pickle_function(one).content == pickle_function(two).content
    assert pickle_function(one).sources == pickle_function(two).sources == {}


def test_a_submodule_that_is_loaded_meanwhile_is_not_content(write, monkeypatch):
    write("lazy_pkg/__init__.py", "def __getattr__(name):\n    raise AttributeError(name)")
    write("lazy_pkg/part.py", "")
    source = "import lazy_pkg\ndef predict(x):\n    lazy_pkg.part\n    return x\n"
    function = run(source, "/a.py")
    before = pickle_function(function).content
    importlib.import_module("lazy_pkg.part")
    assert pickle_function(function).content == before


def test_the_artifact_is_the_same(tmp_path: Path):
    def predict(x):
        return x

    one, two = (build_artifact(predict, example=X).manifest_bytes for _ in range(2))
    assert one == two
    assert hashlib.sha256(one).hexdigest() == build_artifact(predict, example=X).sha256
