"""Read golden files as producers and workers read what comes to them: one JSON object, by file name what was read.

Run as a script under this version's code or the released one's (`test_compatibility.py`), so it uses only what the
released version has. A file that cannot be read is told by its error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import shoal as package
from shoal import DeadLetter, records
from shoal.jobs import KINDS, Outcome
from shoal_worker.runner import read


def read_form(form: str, written: Any) -> Any:
    kind, _, what = form.rpartition(".")
    match what:
        case "message":
            return read(written)[0].model_dump(mode="json")
        case "dead_letter":
            return DeadLetter.model_validate(written, extra="ignore").model_dump(mode="json")
        case "args":
            return KINDS[kind].model_validate(written, extra="ignore").model_dump(mode="json")
        case "outcome":
            outcome = records.decoded(json.dumps({"status": "SUCCESS", "result": written}).encode())
            assert isinstance(outcome, Outcome)
            return outcome.model_dump(mode="json")
        case _:
            return f"no reader for {form!r}: add one here"


def seen_of(path: Path) -> Any:
    try:
        return read_form(path.name.partition(".v")[0], json.loads(path.read_text()))
    except Exception as error:  # noqa: BLE001 told in its place
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    seen = {path.name: seen_of(path) for path in sorted(Path(sys.argv[1]).glob("*.json"))}
    json.dump({"code": package.__file__, "answers": seen}, sys.stdout)
