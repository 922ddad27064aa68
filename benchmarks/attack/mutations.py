"""Random mutations of bytes, without a grammar."""

from random import Random

_ODD_BYTES = (b"\0", b"\xff", b"\x80", b"\x7f", b"\r\n", b'"', b"{", b"[", b"\xff\xff\xff\xff\x0f")


def mutated(rng: Random, data: bytes) -> bytes:
    """Return data with a few bytes changed, removed, repeated or truncated."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice((1, 1, 2, 8, 100))
        piece = bytes(changed[at : at + size])
        changed[at : at + size] = rng.choice(
            (b"", rng.randbytes(size), piece * 2, piece * 50, rng.choice(_ODD_BYTES))
        )
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)
