"""Expensive structures for every parser of the query ports, for the attack and for tests.

A server refuses each structure early if it compares counts with the signature before it converts.
The `answers` of a structure name the exceptions.
"""

from benchmarks.attack.json_structures import JSON_STRUCTURES
from benchmarks.attack.protobuf_structures import PROTOBUF_STRUCTURES

STRUCTURES = [*JSON_STRUCTURES, *PROTOBUF_STRUCTURES]
