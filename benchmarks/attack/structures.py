"""The worst structures for every parser of the query ports, for the tool and for tests.

A server that compares counts with the model before it converts refuses each of them early, unless
`answers` of the structure says otherwise.
"""

from benchmarks.attack.json_structures import JSON_STRUCTURES
from benchmarks.attack.protobuf_structures import PROTOBUF_STRUCTURES

STRUCTURES = [*JSON_STRUCTURES, *PROTOBUF_STRUCTURES]
