"""What the battery finds out, on disk as soon as it is known."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import jetnb
from jetnb import _json, atomic


class Record:
    """Numbers of one part, on disk as soon as they are known."""

    def __init__(self, out: Path, part: str, device: str, tiny: bool, ends: float | None = None):
        self.file, self.ends = out / f"{part}.json", ends or float("inf")
        self.values = {"part": part, "tiny": tiny, "machine": machine(device), "results": {}}

    def take(self, name: str, measure: Callable[[], object]) -> None:
        """Keep what `measure` returns, or how it failed; only the name once the time of the part is
        over.
        """
        if time.time() > self.ends:
            self.values.setdefault("skipped", []).append(name)
            return self._write()
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # whatever it is, the next measurement shall have its turn
            found = {
                "error": f"{type(error).__name__}: {error}"[:500],
                "where": traceback.format_exc()[-1500:],
            }
        self.values["results"][name] = found
        self._write()
        print(
            f"[{time.perf_counter() - started:6.1f} s] {self.values['part']}: {name}: "
            f"{json.dumps(found, default=float)[:400]}",
            flush=True,
        )

    def _write(self) -> None:
        with atomic.new_file(self.file, replace=True) as file:
            file.write_text(json.dumps(self.values, indent=1, default=float))


def machine(device: str) -> dict:
    about = {
        "device": "CPU",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "jetnb": jetnb.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cuda":
        chip = torch.cuda.get_device_properties(0)
        about |= {
            "device": chip.name,
            "memory_GB": round(chip.total_memory / 1e9),
            "cuda": torch.version.cuda,
        }
    return about


def collect(out: Path, remarks: list[str]) -> dict:
    """One record of all parts in the folder `out`, with what failed or was cut short among the
    remarks.
    """
    parts = [
        _json.read(
            file,
            {"part": str, "machine": dict, "results": dict},
            what="record of the battery",
            remedy="measure this part again",
        )
        for file in sorted(out.glob("*.json"))
    ]
    if not parts:
        raise FileNotFoundError(
            f"{out} has no record of the battery: run battery.py --out {out} first"
        )
    for key in ("device", "torch"):
        if len(found := {part["machine"][key] for part in parts}) > 1:
            raise ValueError(
                f"{out} has records of several machines, {key} is {' and '.join(sorted(found))}: collect "
                "them apart"
            )
    results, remarks = {}, list(remarks)
    for part in parts:
        results[part["part"]] = {}
        if part.get("skipped"):
            remarks.append(
                f"not measured, as the time of {part['part']} was over: {', '.join(part['skipped'])}"
            )
        for name, result in part["results"].items():
            result = {
                key: _rounded(value)
                for key, value in result.items()
                if key != "where" or "error" not in result
            }
            results[part["part"]][name] = result
            if "error" in result:
                remarks.append(f"failed: {part['part']}: {name}: {result['error']}")
            if result.get("steps", 0) < result.get("of", 0):
                remarks.append(
                    f"cut: {name} had done {result['steps']} of {result['of']} steps when its time was "
                    "over, so its learning rate had not fallen to zero"
                )
            if part["part"] == "simulate" and name == next(iter(part["results"])):
                remarks.append(
                    f"{result['cores']} of {part['machine']['cores']} CPU cores simulated jets at the same "
                    "time"
                )
    return {
        "machine": parts[0]["machine"],
        "tiny": any(part["tiny"] for part in parts),
        "remarks": remarks,
        "results": results,
    }


def _rounded(value):
    """Four digits are more than a repetition agrees in."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
