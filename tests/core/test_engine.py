"""The engine on one process: memory of an update serves the next one."""

from __future__ import annotations

import platform
import resource

import pytest
import torch
from echo import Echo, Linear

from unlabel.engine import Engine


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_for_the_next_update():
    Engine("cpu", "fp32").prepare(Echo(Linear()))
    faults = []
    for _ in range(6):  # the first ones find their places
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(20_000_000).add(1)  # 160 MB: 40,000 pages, if they were fetched anew
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 1000
