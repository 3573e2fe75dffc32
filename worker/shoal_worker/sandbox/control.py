"""What only the sandbox has: its records, its bill, and the way to change its scenario while it runs."""

from itertools import islice

from aiohttp import web
from pydantic import ValidationError

from shoal_worker.sandbox.chat import SANDBOX
from shoal_worker.sandbox.delivery import plain_response
from shoal_worker.sandbox.replies import Reply, error
from shoal_worker.sandbox.scenario import Scenario


async def requests(request: web.Request) -> web.Response:
    """The recorded requests in order of arrival; `?custom_id=` picks one job's, `?last=` the latest few."""
    custom_id, last = request.query.get("custom_id"), request.query.get("last", "")
    if last and not last.isdecimal():
        return plain_response(error(400, "last: not a number of requests"))
    records = request.app[SANDBOX].ledger.records
    picked = (one for one in reversed(records) if custom_id is None or one.custom_id == custom_id)
    told = [one.summary() for one in islice(picked, int(last) if last else None)]
    return plain_response(Reply(200, {"requests": told[::-1]}))


async def bill(request: web.Request) -> web.Response:
    return plain_response(Reply(200, request.app[SANDBOX].ledger.summary()))


async def scenario(request: web.Request) -> web.Response:
    """Play another scenario from now on; what was recorded stays."""
    try:
        asked = Scenario.model_validate_json(await request.read())
    except ValidationError as invalid:
        return plain_response(error(400, scenario_faults(invalid)))
    request.app[SANDBOX].play(asked)
    return plain_response(Reply(200, asked.model_dump(mode="json")))


async def reset(request: web.Request) -> web.Response:
    request.app[SANDBOX].reset()
    return plain_response(Reply(200, {"reset": True}))


def scenario_faults(invalid: ValidationError) -> str:
    """All that is wrong with a scenario, each with its place."""
    named = [
        f"{'.'.join(map(str, one['loc'])) or 'scenario'}: {one['msg']}" for one in invalid.errors(include_url=False)
    ]
    return "invalid scenario: " + "; ".join(named)
