"""An offline OpenRouter: the same wire form, rules in place of a model, every fault on demand.

For offline use and tests. Every answer says that it is the sandbox's: the header `X-Shoal-Sandbox: 1`, and
`system_fingerprint: "shoal-sandbox"` in a completion. The parts, from the outside in:

    server.py       routes and life          chat.py        the life of a request
    lookups.py      the API's GETs           control.py     /sandbox: records, bill, scenario, reset
    validation.py   what gets a 400          ledger.py      records and the bill
    faults.py       every fault's name       scenario.py    latency, budget, faults by plan
    replies.py      statuses and errors      spoilage.py    answers wrong inside
    delivery.py     how a reply goes out     replay.py      the response cache
    metering.py     tokens, cost, budget     completions.py the body of an answer
    answers.py      which rule answers       *_rules.py, mentions.py, schema_filler.py  the rules
"""

from shoal_worker.sandbox.faults import Fault
from shoal_worker.sandbox.scenario import FaultRule, Scenario
from shoal_worker.sandbox.server import make_app

__all__ = ["Fault", "FaultRule", "Scenario", "make_app"]
