"""A worker whose retries come one after the other: six attempts take a second or two."""

import sys

from shoal_worker import process
from shoal_worker.progress import Pulse
from shoal_worker.retry import Policy
from shoal_worker.settings import WorkerSettings
from shoal_worker.slots import Slots


class ImpatientProcess(process.Process):
    def __init__(self, settings: WorkerSettings, slots: Slots, pulse: Pulse) -> None:
        super().__init__(settings, slots, pulse)
        self.runner.policy = Policy(base_seconds=0.05)


def main() -> None:
    process.Process = ImpatientProcess  # type: ignore[misc]  # what open_process makes
    from shoal_worker.main import app

    app.worker_main(["worker", "--without-gossip", "--without-mingle", *sys.argv[1:]])


if __name__ == "__main__":
    main()
