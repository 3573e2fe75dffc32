"""The API's GET endpoints: the catalogue, the key, the credits, a generation."""

from typing import Any

from aiohttp import web

from shoal_worker.sandbox.catalogue import ENDPOINTS_CARD, MODEL_CARD, SLUGS
from shoal_worker.sandbox.chat import SANDBOX, check_key
from shoal_worker.sandbox.delivery import plain_response
from shoal_worker.sandbox.replies import Refused, Reply, error


async def models(_request: web.Request) -> web.Response:
    return _data([MODEL_CARD])


async def endpoints(request: web.Request) -> web.Response:
    slug = f"{request.match_info['author']}/{request.match_info['slug']}"
    if slug not in SLUGS:
        return plain_response(error(404, f"Model {slug[:100]} not found"))
    return _data(ENDPOINTS_CARD)


async def key(request: web.Request) -> web.Response:
    refusal = _key_refusal(request)
    if refusal is not None:
        return refusal
    sandbox = request.app[SANDBOX]
    spent_usd, limit_usd = round(sandbox.ledger.cost_usd, 10), sandbox.playback.scenario.key_limit_usd
    card: dict[str, Any] = {
        "label": "sk-or-v1-sandbox",
        "limit": limit_usd,
        "limit_remaining": None if limit_usd is None else max(0.0, limit_usd - spent_usd),
        "limit_reset": None,
        "include_byok_in_limit": False,
        "usage": spent_usd,
        "usage_daily": spent_usd,
        "usage_weekly": spent_usd,
        "usage_monthly": spent_usd,
        "byok_usage": 0,
        "is_free_tier": False,
        "is_management_key": False,
        "expires_at": None,
        "creator_user_id": "user_sandbox",
        "organization_id": None,
        "workspace_id": None,
        "allowed_data_regions": [],
        "free_model_daily_requests": {"used": 0, "limit": 50, "remaining": 50},
        "budgets": [],
        "effective_budget": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
    }
    return _data(card)


async def credit(request: web.Request) -> web.Response:
    """Refused: only management keys may ask, and the sandbox has none."""
    refusal = _key_refusal(request)
    return refusal or plain_response(error(403, "Only management keys can fetch credits for an account"))


async def generation(request: web.Request) -> web.Response:
    refusal = _key_refusal(request)
    if refusal is not None:
        return refusal
    identity = request.query.get("id", "")
    card = request.app[SANDBOX].ledger.generation(identity)
    if card is None:
        return plain_response(error(404, f"Generation {identity[:60]} not found"))
    return _data(card)


async def nothing(_request: web.Request) -> web.Response:
    return plain_response(error(404, "Not Found"))


def _key_refusal(request: web.Request) -> web.Response | None:
    try:
        check_key(request)
    except Refused as refused:
        return plain_response(refused.reply)
    return None


def _data(card: Any) -> web.Response:
    return plain_response(Reply(200, {"data": card}))
