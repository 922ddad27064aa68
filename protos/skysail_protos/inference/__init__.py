"""Package `inference`: the Open Inference Protocol.

Imported by the frontend only: `tritonclient` registers the same names in the process-wide
descriptor pool, and the two cannot share a process.
"""
