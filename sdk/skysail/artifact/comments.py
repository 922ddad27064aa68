"""Removal of comments and layout from a source file, so that they do not change its hash."""

import ast
import io
import tokenize

_NO_CODE = frozenset({
    tokenize.COMMENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER, tokenize.INDENT,
    tokenize.NEWLINE, tokenize.NL,
})  # fmt: skip


def strip_comments(source: bytes) -> bytes:
    """Return a source file without comments and empty lines, in UTF-8.

    A file that does not parse, or whose syntax tree would change, is returned unchanged.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = io.TextIOWrapper(io.BytesIO(source), encoding).read()
        shortened = _shortened(text)
        is_same = ast.dump(ast.parse(text)) == ast.dump(ast.parse(shortened))
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return source
    return shortened.encode() if is_same else source


def _shortened(text: str) -> str:
    with_code: set[int] = set()
    comments: dict[int, int] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.start[1]
        elif token.type not in _NO_CODE:
            with_code.update(range(token.start[0], token.end[0] + 1))
    lines = text.split("\n")
    kept = [(lines[number - 1], comments.get(number)) for number in sorted(with_code)]
    return "".join(f"{line if end is None else line[:end].rstrip()}\n" for line, end in kept)
