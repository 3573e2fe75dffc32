"""The settings against each other and against this machine."""

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from shoal_worker.doctor.findings import Finding, fault, fine, warning
from shoal_worker.settings import WorkerSettings

#: Files and connections of a worker process beside one for each job.
OTHER_FILES = 100


@dataclass(frozen=True, slots=True)
class Facts:
    #: How many files a process may have open; a connection is one.
    open_files: int


def look() -> Facts:
    return Facts(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def findings(facts: Facts, settings: WorkerSettings, *, queue_is_far: bool) -> Iterator[Finding]:
    yield fine(
        "times",
        f"times hold together: a call {settings.model_deadline_seconds:g} s, an attempt "
        f"{settings.job_time_limit_seconds:g} s, a stop {settings.shutdown_grace_seconds:g} s; a lease "
        f"{settings.lease_seconds:g} s, a message {settings.visibility_timeout_seconds:g} s",
    )
    needed = settings.concurrency + OTHER_FILES
    if facts.open_files < needed:
        what = f"{settings.concurrency} jobs at once may need {needed} connections, and a process here may have "
        what += f"{facts.open_files} files open"
        why = "calls that find no free one fail as `connect_failed`"
        yield fault(
            "files", what, why, f"ulimit -n {2 * needed} (LimitNOFILE= under systemd), or lower SHOAL_CONCURRENCY"
        )
    else:
        yield fine("files", f"a process may have {facts.open_files} files open")
    if settings.signing_keys is None and queue_is_far:
        why = "whoever can write to the queue has workers run jobs at your cost"
        fix = "set SHOAL_SIGNING_KEYS, for producers and workers alike: openssl rand -hex 32"
        yield warning("signing", "messages are not signed, and the queue can be reached from elsewhere", why, fix)
