"""The machine that block times are of: the device, its precision and software, and the batch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from studies.latency.work import Setup
from studies.training.devices import describe

FORMAT = "4"  # of tables, and of the way in which blocks are timed


def machine_of(setup: Setup, threads: int | None = None) -> dict[str, str]:
    """Return device, precision, versions and batch as text, the same for times that are comparable.

    Args:
        setup: device and batch.
        threads: of a worker on a CPU; None: of this process.
    """
    about = describe(setup.device)
    try:
        own = version("nas-cli")
    except PackageNotFoundError:  # run from a folder of the code
        own = "unknown"
    on_cpu = {"threads": str(threads or about["threads"])} if setup.device.type == "cpu" else {}
    return {
        "device": about["device"],
        "dtype": str(setup.dtype).removeprefix("torch."),
        **on_cpu,
        "batch": str(setup.batch),
        "torch": about["torch"],
        "nas": own,
        "format": FORMAT,
    }
