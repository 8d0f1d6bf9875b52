"""Describe the environment for a bug report: versions, machine, settings in force.

Nothing in it names a user, a host or a folder, so it can be posted as it is.
"""

import multiprocessing
import os
from dataclasses import asdict
from typing import Any

import psutil

from fastload._system import cgroups
from fastload._system.memory_limits import default_limit_bytes
from fastload.tools.bench.machine import describe_machine, version_of

DISTRIBUTIONS = (
    *("psutil", "rich", "pyarrow", "jinja2", "matplotlib", "simplejpeg", "pillow"),
    *("accelerate", "lightning", "pytorch-lightning", "torchdata", "transformers", "datasets"),
    "webdataset",
)
"""Beside torch, NumPy and fastload: what fastload uses and what uses fastload."""

VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_CPU_AFFINITY"),
    *("KMP_AFFINITY", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "WORLD_SIZE"),
    *("LOCAL_WORLD_SIZE", "PYTHONHASHSEED", "PYTHONDEVMODE", "PYTORCH_ALLOC_CONF", "NO_COLOR"),
)
"""Environment variables that change how loading goes; all of them numbers or flags."""


def describe_environment() -> dict[str, dict[str, Any]]:
    """Return the report, section by section, of values that `json` can write.

    No torch is imported, so it also works where that fails.

    Example:
        >>> sorted(describe_environment())
        ['machine', 'settings', 'versions']
    """
    machine = asdict(describe_machine())
    names = ("python", "torch", "numpy", "fastload", "commit")
    found = {name: version_of(name) for name in DISTRIBUTIONS}
    return {
        "versions": {
            **{name: machine.pop(name) for name in names},
            **{name: number for name, number in found.items() if number is not None},
        },
        "machine": {
            **machine,
            "cores_of_machine": os.cpu_count(),
            "cores_of_cgroup": cgroups.cpu_quota_cores(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "settings": {
            "start_method": multiprocessing.get_all_start_methods()[0],
            "memory_limit_bytes": default_limit_bytes(),
            **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        },
    }
