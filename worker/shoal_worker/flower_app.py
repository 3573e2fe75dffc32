"""`shoal flower`: Flower behind a login. Options that are not ours are Flower's own `FLOWER_*` variables.

Secrets come from there or from files, never from the command line, which everybody on a machine can read.
"""

import os
from pathlib import Path
from typing import Any

import click

from shoal.errors import SettingsError
from shoal_worker.flower_access import access_of
from shoal_worker.settings import WorkerSettings

PORT = 5555
SAVE_SECONDS = 60
#: Only for us: what is kept is a pickle, and whoever writes one runs code in who reads it.
PRIVATE = 0o700


def kept_in(data_dir: Path) -> dict[str, Any]:
    """Options for a Flower that remembers. Raises `SettingsError` when others could write there."""
    folder = data_dir / "flower"
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise SettingsError(f"--data-dir: {folder} cannot be made: {type(error).__name__}") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SettingsError(f"--data-dir: {folder} must be ours alone: chown it, and chmod 700")
    return {"persistent": True, "db": str(folder / "state"), "state_save_interval": SAVE_SECONDS * 1_000}


def port_of(ctx: click.Context | None, param: click.Parameter | None, value: Any) -> int:
    """A number; not what Kubernetes sets in each pod's `FLOWER_PORT` where a Service is named flower."""
    return PORT if str(value).startswith("tcp://") else int(click.INT.convert(value, param, ctx))


@click.command()
@click.option("--port", envvar="FLOWER_PORT", default=str(PORT), show_default=True, callback=port_of, metavar="NUMBER")
@click.option("--host", envvar="FLOWER_ADDRESS", default="127.0.0.1", show_default=True, help="Others need a login.")
@click.option("--read-only", envvar="FLOWER_READ_ONLY", is_flag=True, help="For viewers: no command to any worker.")
@click.option("--persistent", envvar="FLOWER_PERSISTENT", is_flag=True, help="Remember tasks over a restart.")
@click.option("--data-dir", default=".shoal", show_default=True, type=click.Path(path_type=Path, file_okay=False))
def flower(port: int, host: str, *, read_only: bool, persistent: bool, data_dir: Path) -> None:
    """Serve Flower: workers and tasks in a browser. The login is FLOWER_BASIC_AUTH, or FLOWER_AUTH and OAuth."""
    access = access_of(os.environ, host)
    os.umask(0o777 & ~PRIVATE)
    kept = kept_in(data_dir) if persistent else {"persistent": False}
    settings = WorkerSettings.load()
    from shoal_worker.flower_server import configure, serve, watched

    configure(access, address=host, port=port, read_only=read_only, **kept)
    serve(watched(settings))
