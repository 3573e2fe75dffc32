"""`python -m shoal_worker`: one worker process."""

import sys

from shoal.errors import SettingsError


def main() -> None:
    try:
        from shoal_worker.main import app
    except SettingsError as error:
        sys.exit(str(error))
    app.worker_main(["worker", "--without-gossip", "--without-mingle", *sys.argv[1:]])


if __name__ == "__main__":
    main()
