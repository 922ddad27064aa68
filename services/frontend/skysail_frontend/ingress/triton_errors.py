"""Triton's codes and texts for shed queries, for clients that match them."""

from skysail_common.errors import DeadlineExceeded, Overloaded, SkysailError, Unavailable, shown


def triton_error(query_id: str, error: SkysailError) -> SkysailError:
    """Return the error that Triton sends in place of this error."""
    text = None
    if isinstance(error, Overloaded):
        text = f"[request id: {shown(query_id) or '<id_unknown>'}] Exceeds maximum queue size"
    elif isinstance(error, DeadlineExceeded):
        text = "Request timeout expired"
    if text is None:
        return error
    translated = Unavailable(text)
    translated.backlog = error.backlog
    return translated
