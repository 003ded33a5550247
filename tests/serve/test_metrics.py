"""Prometheus' text: what it counts, and that its histograms add up."""

from __future__ import annotations

import re

from modelworks.serve.metrics import Family, Histogram, render

LINE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+$')


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram("h", "Help.", (0.1, 1.0))
    for value, times in ((0.1, 1), (0.5, 3), (7.0, 2)):
        histogram.observe(value, times)
    assert render({"": [histogram.family()]}).splitlines() == [
        "# HELP modelworks_h Help.",
        "# TYPE modelworks_h histogram",
        'modelworks_h_bucket{le="0.1"} 1',
        'modelworks_h_bucket{le="1.0"} 4',
        'modelworks_h_bucket{le="+Inf"} 6',
        "modelworks_h_sum 15.6",
        "modelworks_h_count 6",
    ]


def test_the_counts_of_several_replicas_stand_together() -> None:
    def counted(value: float) -> list[Family]:
        return [Family("a", "A.", "gauge", [("", {}, value)]), Family("b", "B.", "counter", [("", {"x": "y"}, 2)])]

    assert render({"r1": counted(1), "r2": counted(1e6)}).splitlines() == [
        "# HELP modelworks_a A.",
        "# TYPE modelworks_a gauge",
        'modelworks_a{replica="r1"} 1',
        'modelworks_a{replica="r2"} 1000000',
        "# HELP modelworks_b B.",
        "# TYPE modelworks_b counter",
        'modelworks_b{replica="r1",x="y"} 2',
        'modelworks_b{replica="r2",x="y"} 2',
    ]


def test_requests_and_tokens_are_counted(serving) -> None:
    served = serving()
    served.say("four", max_tokens=4)
    list(served.say("four", stream=True))
    served.http.get("/a/path/of%22their%0aown")
    text = served.http.get("/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(LINE.match(line) for line in lines), text
    values = dict(line.rsplit(" ", 1) for line in lines)
    assert values['modelworks_requests_total{route="/v1/chat/completions",method="POST",status="200"}'] == "2"
    assert values['modelworks_requests_total{route="other",method="GET",status="404"}'] == "1"
    prompt = len("xuser\nfourx\nxassistant\n")
    assert values["modelworks_prompt_tokens_total"] == str(2 * prompt)
    assert values["modelworks_generated_tokens_total"] == str(4 + 5)
    assert values["modelworks_time_to_first_token_seconds_count"] == "2"
    assert int(values["modelworks_time_per_token_seconds_count"]) <= 3 + 4
    assert values["modelworks_requests_running"] == "0"
    assert values["modelworks_http_requests_in_flight"] == "1"
