"""Prometheus' text: what it counts, and that its histograms add up."""

from __future__ import annotations

import re

from modelworks.serve.metrics import Histogram

LINE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+$')


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram("h", "Help.", (0.1, 1.0))
    for value, times in ((0.1, 1), (0.5, 3), (7.0, 2)):
        histogram.observe(value, times)
    assert list(histogram.lines())[2:] == [
        'h_bucket{le="0.1"} 1',
        'h_bucket{le="1.0"} 4',
        'h_bucket{le="+Inf"} 6',
        "h_sum 15.6",
        "h_count 6",
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
