import re

from prometheus_client.parser import text_string_to_metric_families

from skysail_common import __version__
from skysail_common.identifiers import ModelVersion
from skysail_frontend.monitoring.metrics import MetricsPage, merge_pages
from unit.frontend.parts import Frontend, served

PAGE = """\
# HELP a_total How "often" # HELP is said
# TYPE a_total counter
a_total{model="{ \\"x\\" 1\\n# HELP b",version="1"} 3.0
a_total{model="y",version=""} 1.5e+06
# HELP b B
# TYPE b gauge
b %d
# HELP c Nothing yet
# TYPE c histogram
"""


def page_of(frontend: Frontend) -> str:
    return MetricsPage(frontend.dispatcher, dict).text().decode()


def test_samples_of_workers_have_a_label():
    page = merge_pages({"0": PAGE % 1, "7": PAGE % 2})
    samples = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    one, other = {"model": '{ "x" 1\n# HELP b', "version": "1"}, {"model": "y", "version": ""}
    assert samples == [
        *(
            ("a_total", {"worker": worker, **labels}, value)
            for worker in ("0", "7")
            for labels, value in ((one, 3.0), (other, 1.5e6))
        ),
        ("b", {"worker": "0"}, 1),
        ("b", {"worker": "7"}, 2),
    ]
    assert re.findall("^# TYPE .*", page, re.MULTILINE) == [
        "# TYPE a_total counter",
        "# TYPE b gauge",
        "# TYPE c histogram",
    ]


def test_a_complete_page_is_merged_without_loss():
    frontend = Frontend(served("m:1"), served("n:1"))
    frontend.dispatcher.statistics.version(ModelVersion("m", "1")).compute_s.observe(0.1)
    text = page_of(frontend)
    page = merge_pages({"3": text})
    assert page.replace('{worker="3"}', "").replace('worker="3",', "") == text
    num_samples = len(re.findall("^[^#]", text, re.MULTILINE))
    assert page.count('worker="3"') == num_samples
    assert (
        len(re.findall("^[^#]", merge_pages({"0": text, "1": text}), re.MULTILINE))
        == 2 * num_samples
    )


def test_a_merged_page_without_workers_is_empty():
    assert merge_pages({}) == ""


def test_a_version_without_queries_has_no_histogram():
    def num_lines(*names: str) -> int:
        return len(page_of(Frontend(*map(served, names))).splitlines())

    assert num_lines("m:1", "n:1") - num_lines("m:1") <= 15


def test_the_page_contains_the_version_of_skysail():
    line = f'skysail_build_info{{version="{__version__}"}} 1.0'
    assert line in page_of(Frontend(served("m:1"))).splitlines()
