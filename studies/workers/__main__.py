"""Entry point of a worker process, as the supervisor starts it.

python -m studies.workers FOLDER --device NAME [--trials N] [--refine RUNS] [--lanes N]

The address of a database is passed in the environment (`STORAGE`): arguments are visible to every user.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

from studies.storage.addresses import STORAGE, redacted
from studies.study import Study
from studies.training.devices import DeviceLost
from studies.workers.join import join
from studies.workers.supervisor import LOST, STOPPED
from surgery.config.failures import report


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Join the study, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m studies.workers", allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--device", required=True)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--refine", type=int, metavar="RUNS")
    parser.add_argument("--lanes", type=int, help="trainings at a time; default: as many as pay")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        study = Study.open(options.folder, url=os.environ.get(STORAGE))
        reason = join(
            study, target=options.trials, device=options.device, lanes=options.lanes,
            most_runs=options.refine, log=log,
        )  # fmt: skip
        log(reason)
    except KeyboardInterrupt:
        log("stopped")
        return STOPPED
    except DeviceLost as error:
        log(f"the device is lost to this worker; {error}")
        return LOST
    except Exception as error:
        text, code = report(error)
        log(redacted(text))
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
