"""Removal of credentials from texts for logs and answers."""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+(?=@)")


def without_credentials(text: str) -> str:
    """Return the text with `***` in place of the user and password of each URL."""
    return _CREDENTIALS.sub("***", text)
