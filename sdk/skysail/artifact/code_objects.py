"""Normalization of code objects: equal source gives equal bytes everywhere.

The normal form excludes file names, comments, blank lines and the position of a function in its file.
It numbers the lines with code 1, 2, …, and keeps their texts separately, so that a traceback in a
replica shows them.
"""

import dis
import io
import linecache
import pickle
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import Any

from skysail.artifact.set_ordering import SortedSet
from skysail_common import captured


class CodeNormalizer:
    """The normalization of the code objects of one pickle."""

    def __init__(self) -> None:
        self.sources: dict[str, list[str]] = {}
        """Texts of the lines by file name, for tracebacks."""
        self._num_named: Counter[str] = Counter()
        self._comments: dict[str, dict[int, int]] = {}

    def reduced(self, code: CodeType, name: str) -> tuple[Any, ...]:
        """Return the reduction of a code object for `pickle`.

        Args:
            code: The code of a function.
            name: Full name of the function, for tracebacks.
        """
        buffer = io.BytesIO()
        _CodePickler(buffer).dump(self._normalized(code, name, is_shown=True))
        return captured.code_of, (buffer.getvalue(),)

    def _normalized(self, code: CodeType, name: str, is_shown: bool) -> CodeType:
        self._num_named[name] += 1
        number = self._num_named[name]
        filename = f"<{name}>" if number == 1 else f"<{name}#{number}>"
        # The line of a lambda contains other code too.
        is_shown = is_shown and code.co_name != "<lambda>"
        lines = sorted({code.co_firstlineno, *(line for _, _, line in code.co_lines() if line)})
        if is_shown:
            texts = [self._text(code.co_filename, line) for line in lines]
            if any(texts):
                self.sources[filename] = texts
        numbers = {line: index for index, line in enumerate(lines, 1)}
        ranges = [
            (end - start, numbers[line] if line else None) for start, end, line in code.co_lines()
        ]
        constants = tuple(
            self._normalized(each, f"{name}.{each.co_name}", is_shown)
            if isinstance(each, CodeType)
            else each
            for each in code.co_consts
        )
        return code.replace(
            co_filename=filename,
            co_firstlineno=numbers[code.co_firstlineno],
            co_linetable=_line_table(ranges, numbers[code.co_firstlineno]),
            co_consts=constants,
        )

    def _text(self, filename: str, line: int) -> str:
        if filename not in self._comments:
            # The file of a reloaded module may have changed.
            linecache.checkcache(filename)
            self._comments[filename] = _comments(linecache.getlines(filename))
        text = linecache.getline(filename, line)
        return text[: self._comments[filename].get(line)].strip()


class _CodePickler(pickle.Pickler):
    """A pickler without a memo, so that the bytes do not depend on shared constants."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.fast = True

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, CodeType):
            return NotImplemented
        return captured.make_code, tuple(_in_order(each) for each in _arguments(obj))


def _arguments(code: CodeType) -> Iterator[Any]:
    """Yield the arguments with which `CodeType` creates an equal code object."""
    yield from (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_nlocals,
        code.co_stacksize,
        code.co_flags,
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_filename,
        code.co_name,
    )
    if sys.version_info >= (3, 11):
        yield code.co_qualname
    yield from (code.co_firstlineno, code.co_linetable)
    if sys.version_info >= (3, 11):
        yield code.co_exceptiontable
    yield from (code.co_freevars, code.co_cellvars)


def _in_order(constant: Any) -> Any:
    # The compiler turns the set in `x in {"a", "b"}` into a constant.
    if isinstance(constant, frozenset):
        return SortedSet(constant)
    if type(constant) is tuple:
        return tuple(_in_order(each) for each in constant)
    return constant


def _comments(lines: list[str]) -> dict[int, int]:
    """Return the column of the comment in each line that has one."""
    found = {}
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.start[1]
    except (tokenize.TokenError, SyntaxError, StopIteration):
        # The lines of an interactive session may not be a whole program.
        pass
    return found


def _line_table(ranges: list[tuple[int, int | None]], first_line: int) -> bytes:
    """Return the `co_linetable` of consecutive ranges of bytes, each with its line.

    Source: CPython, Objects/lnotab_notes.txt (3.10) and Objects/locations.md (3.11).
    """
    encode = _entries if sys.version_info >= (3, 11) else _entries_of_python_3_10
    return bytes(encode(ranges, first_line))


def _entries(ranges: list[tuple[int, int | None]], line: int) -> Iterator[int]:
    for num_bytes, new_line in ranges:
        units = num_bytes // 2
        while units:
            length = min(units, 8)
            units -= length
            if new_line is None:
                yield 0x80 | 15 << 3 | length - 1
                continue
            yield 0x80 | 13 << 3 | length - 1
            delta, line = new_line - line, new_line
            rest = delta << 1 if delta >= 0 else (-delta << 1) | 1
            while rest >= 64:
                yield 0x40 | rest & 63
                rest >>= 6
            yield rest


def _entries_of_python_3_10(ranges: list[tuple[int, int | None]], line: int) -> Iterator[int]:
    for num_bytes, new_line in ranges:
        delta = 0 if new_line is None else new_line - line
        while abs(delta) > 127:
            step = 127 if delta > 0 else -127
            yield from (0, step & 0xFF)
            delta -= step
        if new_line is not None:
            line = new_line
        first = 0x80 if new_line is None else delta & 0xFF
        while num_bytes > 254:
            yield from (254, first)
            num_bytes -= 254
            first = 0x80 if new_line is None else 0
        yield from (num_bytes, first)


def imported_names(code: CodeType, package: str) -> set[str]:
    """Return the full names of the modules and members that a code object imports.

    Args:
        code: Code object, with its nested ones.
        package: Package of the relative imports; empty if there is none.
    """
    names: set[str] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for index, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, members = steps[index - 2].argval, steps[index - 1].argval
            names |= resolved_names(step.argval, level or 0, members or (), package)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= imported_names(constant, package)
    return names


def resolved_names(name: str, level: int, members: "tuple[str, ...]", package: str) -> set[str]:
    """Return the full names of modules that one import statement may import."""
    if level:
        parts = package.split(".")
        if not package or level > len(parts):
            return set()
        name = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
    return {name, *(f"{name}.{member}" for member in members if member != "*")}
