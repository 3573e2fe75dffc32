"""A worker whose consumer's thread stands still when told to."""

import sys
import time
from typing import Any

from celery.worker.control import control_command


@control_command()  # type: ignore[untyped-decorator]  # Celery is untyped
def stand_still(state: Any) -> dict[str, str]:
    time.sleep(60)
    return {"ok": "awake"}


def main() -> None:
    from shoal_worker.main import app

    app.worker_main(["worker", "--without-gossip", "--without-mingle", *sys.argv[1:]])


if __name__ == "__main__":
    main()
