"""The context that handlers of TorchServe get.

Source: TorchServe, "Custom service", for the names that handlers use. Changed: requests have no
headers, because Skysail's queries have none.
"""

from collections.abc import Mapping
from typing import Any

SERVER = "Skysail"


class RequestProcessor:
    """The answer to one request, as far as a handler sets more than its body."""

    def __init__(self) -> None:
        """Begin with status 200 and without headers."""
        self.status = 200
        self.phrase = ""
        self.headers: dict[str, str] = {}

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the status."""
        self.status, self.phrase = code, reason_phrase or ""

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header."""
        self.headers[key] = value

    def get_request_property(self, key: str) -> str | None:
        """Return None: no query has headers."""
        return None

    def get_request_properties(self) -> dict[str, str]:
        """Return no headers."""
        return {}

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers that were set."""
        return self.headers


class DroppedMetrics:
    """Metrics that a handler may add to, and that nobody reads."""

    def __getattr__(self, name: str) -> Any:
        """Return a method of any documented name, such as `add_counter`.

        Raises:
            AttributeError: the name is private.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_args, **_options: self


class Context:
    """The surroundings of a handler, and the requests of its current batch."""

    def __init__(
        self, name: str, manifest: Mapping[str, Any], properties: Mapping[str, Any]
    ) -> None:
        """Describe a model.

        Args:
            name: Name of the model.
            manifest: The manifest of the archive.
            properties: `model_dir`, `gpu_id` and the other system properties.
        """
        self.model_name = name
        self.manifest = dict(manifest)
        self.system_properties = dict(properties)
        self.model_yaml_config: dict[str, Any] = {}
        self.metrics = DroppedMetrics()
        self.request_ids: dict[int, str] = {}
        self.request_processor: list[RequestProcessor] = []

    def begin(self, num_requests: int) -> None:
        """Forget the requests of the last batch."""
        self.request_ids = {index: str(index) for index in range(num_requests)}
        self.request_processor = [RequestProcessor() for _ in range(num_requests)]
        self.system_properties["batch_size"] = num_requests

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the id of a request, unique in its batch."""
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """Return None: no query has headers."""
        return None

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """Return no headers."""
        return {}

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Accept a content type; the output is always JSON or text."""
        self.set_response_header(idx, "content-type", value)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Accept a header, which no answer carries."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers that were set."""
        return self.request_processor[idx].headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of one request; from 400 on, the query fails with the phrase."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of all requests."""
        for each in self.request_processor:
            each.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str]:
        """Return the status of one request."""
        return self.request_processor[idx].status, self.request_processor[idx].phrase
