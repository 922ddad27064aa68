"""Metrics pages, as Prometheus reads them."""

import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families


class Page:
    """A metrics page."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all samples with a name and labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of samples with a name and labels, grouped by another label."""
        found: Counter[str] = Counter()
        for sample in self.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found[sample.labels[label]] += sample.value
        return dict(found)


def scrape(endpoint: str) -> Page:
    # Tests scrape often, and each client of httpx would read all certificates.
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as page:
        return Page(page.read().decode())
