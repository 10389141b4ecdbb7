"""What the daemon itself costs a board: memory and CPU of the parent, its probes apart.

Measured: a real ``npumon run`` on the simulator with 5 models (swift-f0 twice, whose ops fall back, and the
demo's network three times) at a 60 s interval. RSS of the parent (VmRSS) after the first checks, after scrapes and page
views, and at the end; its user and system time over a window of whole intervals in which nothing but checks happens.
Baseline: an interpreter that sleeps, started beside it.
Budgets: at most 50 MiB RSS, at any of these points; at most 0.1 % of a core.
Needs an environment without development tools, as ``make bench`` uses: whether rich can be imported is printed, because
structlog imports it where it can (10 MiB), unless kept from it as npumon's log does.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks._report import Report, cpu_seconds, parser, status

MODELS = 5
INTERVAL = 60
MINUTES = 3
RSS_BUDGET = 50.0  # MiB
CORE_BUDGET = 0.001
FIRST_CHECKS = 120.0  # seconds that the first checks may take

CONFIG = """\
[monitor]
listen = "127.0.0.1:{port}"
state = "state"
interval = "{interval}s"
[runtime.options]
soc_model = "60"
"""
MODEL = """
[[models]]
name = "{name}"
path = "{path}"
session = {{ intra_op_num_threads = 1, "session.intra_op.allow_spinning" = "0" }}
[models.gate]
cv = 10.0
"""


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=int, default=MINUTES, help="length of the window")
    options = arguments.parse_args()
    report = Report(f"the parent of {MODELS} models at a {INTERVAL} s interval")
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        port = _free_port()
        config = _configure(Path(folder), port)
        log = Path(folder, "log")
        daemon = [sys.executable, "-m", "monitor", "run", "-c", str(config)]
        sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
        with (
            log.open("wb") as output,
            subprocess.Popen(daemon, stdout=output) as parent,
            subprocess.Popen(sleeper) as bare,
        ):
            try:
                _measure(report, parent.pid, bare.pid, f"http://127.0.0.1:{port}", options.minutes)
            finally:
                bare.kill()
                parent.send_signal(signal.SIGTERM)
    return report.finish(options.out)


def _measure(report: Report, parent: int, bare: int, url: str, minutes: int) -> None:
    deadline = time.monotonic() + FIRST_CHECKS
    while (checked := _checked(url)) < MODELS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {checked} of {MODELS} models were checked in {FIRST_CHECKS:g} s")
        time.sleep(0.5)
    sizes = {"after the first checks": status(parent, "VmRSS")}
    for _ in range(10):
        _get(f"{url}/metrics")
    sizes["after 10 scrapes"] = status(parent, "VmRSS")
    for _ in range(10):
        _get(f"{url}/")
    sizes["after 10 page views"] = status(parent, "VmRSS")
    before, start = cpu_seconds(parent), time.monotonic()
    time.sleep(minutes * INTERVAL)
    seconds = time.monotonic() - start
    used = cpu_seconds(parent) - before
    sizes["at the end"] = status(parent, "VmRSS")
    checks = _series(url, "npumon_checks_total")
    report.row("a bare interpreter, RSS in MiB", f"{status(bare, 'VmRSS'):.1f}")
    for when, size in sizes.items():
        report.row(f"the parent, RSS in MiB, {when}", f"{size:.1f}", f"<= {RSS_BUDGET:g}", size <= RSS_BUDGET)
    report.row("the parent, largest RSS in MiB", f"{status(parent, 'VmHWM'):.1f}")
    share = used / seconds
    report.row(f"share of a core over {seconds:.0f} s", f"{share:.3%}", f"<= {CORE_BUDGET:.1%}", share <= CORE_BUDGET)
    failures = _series(url, "npumon_check_failures_total")
    report.row("checks, first ones included; failed", f"{sum(checks):g}; {sum(failures):g}")
    report.row("rich can be imported (should be no)", "yes" if importlib.util.find_spec("rich") else "no")
    report.raw("rss_mib", sizes)
    report.raw("cpu", {"seconds": used, "window_seconds": seconds})


def _configure(folder: Path, port: int) -> Path:
    swift_f0 = importlib.util.find_spec("swift_f0")
    if swift_f0 is None or swift_f0.origin is None:
        raise RuntimeError("swift-f0 is not installed; run `make bench`")
    network = folder / "qdq_cnn.onnx"
    subprocess.run([sys.executable, "-m", "monitor.probe.demo_model", str(network)], check=True)
    paths = [Path(swift_f0.origin).parent / "model.onnx"] * 2 + [network] * 3
    config = folder / "npumon.toml"
    tables = [MODEL.format(name=f"model_{number}", path=path) for number, path in enumerate(paths)]
    config.write_text(CONFIG.format(port=port, interval=INTERVAL) + "".join(tables))
    return config


def _checked(url: str) -> int:
    """How many models were checked at least once; 0 while the daemon does not answer."""
    try:
        return sum(value > 0 for value in _series(url, "npumon_checks_total"))
    except OSError:
        return 0


def _series(url: str, metric: str) -> list[float]:
    lines = re.findall(rf"^{metric}\{{.*\}} (\S+)$", _get(f"{url}/metrics"), re.MULTILINE)
    return [float(value) for value in lines]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return bytes(response.read()).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
