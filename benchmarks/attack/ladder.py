"""Fuzzer: every expensive structure from 1 KiB to above the limit, plain and compressed."""

from dataclasses import replace
from random import Random

from benchmarks.attack.cases import Case
from benchmarks.attack.protobuf_structures import INFER, PREDICT, PREDICT_STREAM, STREAM
from benchmarks.attack.sending import ENCODINGS
from benchmarks.attack.structure import KIB, MAX_BYTES, MIB, REFUSED
from benchmarks.attack.structures import STRUCTURES

_STREAMS = {INFER: STREAM, PREDICT: PREDICT_STREAM}
_SIZES = (KIB, 4 * KIB, 32 * KIB, 256 * KIB, MIB, 8 * MIB, MAX_BYTES, MAX_BYTES + 2 * MIB)


def case(rng: Random) -> Case:
    """Return one structure in one size."""
    structure, encoding = rng.choice(STRUCTURES), rng.choice(ENCODINGS)
    if structure.door in _STREAMS and rng.random() < 0.3:
        # A stream stays open after a query is refused.
        stream = _STREAMS[structure.door]
        structure = replace(structure, door=stream, answers=structure.answers | {"OK"})
    # Large structures are rare, because they take long to generate.
    (size,) = rng.choices(_SIZES, weights=(8, 8, 8, 8, 8, 4, 2, 1))
    answers = structure.answers if size <= MAX_BYTES else structure.answers | REFUSED
    label = f"{structure}, {size >> 10} KiB, {encoding}"
    return Case(label, lambda sender: sender.structure(structure, size, encoding), answers)
