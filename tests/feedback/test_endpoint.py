"""A judge behind HTTP: a server of the test's own, which answers, fails, refuses, or is not there."""

from __future__ import annotations

import json
import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modelworks.core.errors import ConfigError
from modelworks.feedback.endpoint import EndpointJudge, JudgeError
from modelworks.feedback.judge import Comparison

ONE = Comparison([{"role": "user", "content": "?"}], "Which?", "good", "bad")


def top(**logprobs):
    listed = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}


@pytest.fixture
def server():
    """Makes a server of `answer(body, number)`, which gives a status and an object; `.seen` are the requests."""
    running = []

    def make(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                made.seen.append((self.path, body, self.headers.get("Authorization")))
                status, value = answer(body, len(made.seen))
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.seen = []
        made.url = f"http://127.0.0.1:{made.server_port}/v1"
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return made

    yield make
    for one in running:
        one.shutdown()
        one.server_close()


def likes(body, _):
    """Log-odds 2 for "good" wherever it stands, and 1 for A."""
    first_is_good = "[Answer A]\ngood" in body["messages"][0]["content"]
    return 200, top(A=-1.0 + (2 if first_is_good else -2), B=-2.0, C=-9.0)


def test_the_verdict_is_of_both_orders(server):
    made = server(likes)
    verdicts = list(EndpointJudge(made.url, "large")([ONE] * 9))
    assert len(verdicts) == 9
    assert verdicts[0].margin == pytest.approx(2.0)
    assert verdicts[0].bias == pytest.approx(1.0)
    path, body, key = made.seen[0]
    assert (path, key) == ("/v1/chat/completions", None)
    assert (body["model"], body["max_tokens"], body["logprobs"], body["temperature"]) == ("large", 1, True, 0)


def test_spellings_add_up_and_a_label_beyond_the_list_is_at_most_its_least(server):
    made = server(lambda body, _: (200, top(**{"A": -1.0, " A": -1.0, "the": -4.0})))
    (verdict,) = EndpointJudge(made.url, "m")([ONE])
    assert verdict.orders[0] == pytest.approx((-1 + math.log(2), -4.0))
    assert verdict.orders[1] == pytest.approx((-4.0, -1 + math.log(2)))
    made = server(lambda body, _: (200, top(the=-0.1)))
    (verdict,) = EndpointJudge(made.url, "m")([ONE])
    assert verdict.orders is None
    assert "neither A nor B" in verdict.failure


def test_what_passes_is_tried_again_and_the_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    made = server(lambda body, number: (503, {}) if number < 3 else likes(body, number))
    (verdict,) = EndpointJudge(made.url, "m", key="SOME_KEY", tries=3, wait=0.01)([ONE])
    assert verdict.margin == pytest.approx(2.0)
    assert len(made.seen) == 4
    assert made.seen[0][2] == "Bearer secret"


@pytest.mark.parametrize(
    ("answer", "said", "asked"),
    [
        ((401, {"error": {"message": "bad key"}}), "no verdict: 401 bad key", 1),
        ((503, b"busy"), "no verdict after 2 tries: 503 Service Unavailable", 2),
        ((200, b"<html>"), "no verdict: its answer is not JSON", 1),
        ((200, {"choices": [{"message": {"content": "A"}, "logprobs": None}]}), "reports no top_logprobs", 1),
    ],
)
def test_a_server_that_is_no_judge_is_told_in_one_line(server, answer, said, asked):
    made = server(lambda body, _: answer)
    with pytest.raises(JudgeError, match=said) as caught:
        list(EndpointJudge(made.url, "m", tries=2, wait=0.01)([ONE]))
    assert "\n" not in str(caught.value)
    assert len(made.seen) == asked


def test_a_server_that_is_down_or_never_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(JudgeError, match=r"no verdict after 2 tries: .*refused"):
            list(EndpointJudge(url, "m", tries=2, wait=0.01)([ONE]))
        silent.listen()
        with pytest.raises(JudgeError, match="no verdict after 2 tries: timed out"):
            list(EndpointJudge(url, "m", tries=2, wait=0.01, timeout=0.1)([ONE]))


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="no URL"):
        EndpointJudge("localhost:8000", "m")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        EndpointJudge("http://localhost", "m", key="NO_SUCH_KEY")
