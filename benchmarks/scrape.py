"""What a scrape of a board with 20 models costs, each model with as many series as a model can have.

Measured: the wall time of ``GET /metrics`` over loopback, as Prometheus asks (one connection kept open, gzip accepted),
from the real exposition and the real web server in a process of their own, while checks come in, ten a second (thirty
times as many as 20 models at a 60 s interval make). Each request is paired with one for
``/healthz`` on the same connection: the baseline, which is what client, loopback and server cost by themselves.
Budgets: p99 below 25 ms; at most 100 series a model.
"""

from __future__ import annotations

import gzip
import http.client
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

from benchmarks._report import Report, parser, status, summarize

MODELS = 20
REQUESTS = 500
CHECK_EVERY = 0.1  # seconds
P99_BUDGET = 0.025  # seconds
SERIES_BUDGET = 100
# What Prometheus 2.5x and 3.x send.
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=REQUESTS)
    arguments.add_argument("--serve", action="store_true", help="be the server (used by the benchmark itself)")
    options = arguments.parse_args()
    if options.serve:
        return _serve()
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        scrapes, floors, body = _measure(port, options.requests)
        memory = status(server.pid, "VmRSS")
        assert server.stdin is not None
        server.stdin.close()
    series = Counter(re.findall(r'^npumon_.*?\bmodel="(.*?)"', gzip.decompress(body).decode(), re.MULTILINE))
    p99 = statistics.quantiles(scrapes, n=100)[98]
    report = Report(f"/metrics with {MODELS} models, {options.requests} scrapes; median [95 % interval], ms")
    report.raw("scrape_seconds", scrapes)
    report.raw("healthz_seconds", floors)
    report.raw("series", series)
    report.row("GET /healthz", summarize([1e3 * value for value in floors]).shown(".2f"))
    report.row("GET /metrics", summarize([1e3 * value for value in scrapes]).shown(".2f"))
    report.row("GET /metrics, p99", f"{1e3 * p99:.2f}", f"< {1e3 * P99_BUDGET:g}", p99 < P99_BUDGET)
    report.row("GET /metrics, slowest", f"{1e3 * max(scrapes):.2f}")
    most = max(series.values())
    fits = len(series) == MODELS and most <= SERIES_BUDGET
    report.row(f"series a model, most of {len(series)}", str(most), f"<= {SERIES_BUDGET}", fits)
    report.row("series in all; body in kB, compressed", f"{sum(series.values())}; {len(body) / 1e3:.1f}")
    report.row("RSS of the server, MiB", f"{memory:.1f}")
    return report.finish(options.out)


def _measure(port: int, requests: int) -> tuple[list[float], list[float], bytes]:
    """Seconds of each scrape and of each paired ``/healthz``, and the last body as it came."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def get(path: str) -> bytes:
        connection.request("GET", path, headers={"Accept": ACCEPT, "Accept-Encoding": "gzip"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
        return body

    def timed(path: str) -> float:
        start = time.perf_counter()
        get(path)
        return time.perf_counter() - start

    for path in ("/healthz", "/metrics"):
        get(path)
    pairs = [(timed("/metrics"), timed("/healthz")) for _ in range(requests)]
    return [scrape for scrape, _ in pairs], [floor for _, floor in pairs], get("/metrics")


def _serve() -> int:
    """Serve worst-case results until stdin closes; the port goes to stdout."""
    from monitor.access import Web
    from monitor.outputs.access import Access
    from monitor.outputs.metrics import Exposition
    from monitor.outputs.web import WebServer
    from tests.outputs.specimens import BOARD, worst_case

    models = [f"model_{number:02d}" for number in range(MODELS)]
    exposition = Exposition(models, BOARD, "0", time.time())
    last = {}
    for model in models:
        results, events = worst_case(model)
        for result in results:
            exposition.record(result)
        for event in events:
            exposition.count_event(event)
        last[model] = results[-1]
    web = WebServer(
        ("127.0.0.1", 0),
        file="benchmark",
        access=Access(Path("benchmark"), Web()),
        page=lambda: "",
        metrics=exposition.text,
        health=lambda: (True, "ok"),
    )
    web.start()
    print(web.port, flush=True)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    for model in cycle(models):
        if ended.wait(CHECK_EVERY):
            break
        exposition.record(last[model])
    web.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
