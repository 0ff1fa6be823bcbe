"""What a result depends on besides its recipe: versions, hardware, command, revision of the code."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabel import __version__

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = ["environment", "processor"]


def environment(catalog: Catalog) -> dict[str, Any]:
    """What a result depends on besides the recipe: versions, hardware, command, code revision."""
    versions = {plugin.distribution: plugin.version for plugin in catalog.plugins}
    required = [
        *(metadata.requires("unlabel") or ()),
        *(line for plugin in catalog.plugins for line in plugin.requires),
    ]
    for name in {re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line} - versions.keys():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "unlabel": __version__,
        "python": platform.python_version(),
        "versions": dict(sorted(versions.items())),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "command": sys.argv,
        "git": _git(),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """Name of this machine's processor, as its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git() -> str | None:
    """Revision of the working folder, if it is a checkout."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
