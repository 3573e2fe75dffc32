"""The key, its credit and the model, as the provider tells of them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from shoal_worker.doctor.findings import Finding, fault, fine, warning
from shoal_worker.errors import WorkerError
from shoal_worker.lookups import KeyStatus, ModelCard
from shoal_worker.openrouter import OpenRouter
from shoal_worker.replies import Prices

#: With less than this left, a busy hour ends in pauses.
LOW_USD = 1.0
SOON_SECONDS = 7 * 86_400.0
_STOPS = "calls are refused and jobs wait; they go on by themselves when that is mended"


@dataclass(frozen=True, slots=True)
class Facts:
    """`card` None: the provider does not know the model."""

    key: KeyStatus | None = None
    card: ModelCard | None = None
    asked_at: float = 0.0
    away: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the settings ask of the provider. `is_openrouter` False: a gateway that may tell less."""

    model: str
    cap_field: str
    prices: Prices
    is_openrouter: bool


async def look(provider: OpenRouter, model: str) -> Facts:
    """Does not raise for a provider that is away."""
    try:
        key = await provider.check_key()
        return Facts(key, await provider.model_card(model) if key.is_valid else None, time.time())
    except WorkerError as error:
        return Facts(away=error.reason)


def findings(facts: Facts, asked: Asked) -> Iterator[Finding]:
    if facts.away:
        fix = "look at the network, a proxy, SHOAL_OPENROUTER_BASE_URL"
        yield fault("provider-away", f"the provider cannot be asked: {facts.away}", "no job is answered", fix)
        return
    assert facts.key is not None
    if not facts.key.is_valid:
        why = "every call is refused and jobs wait (`unauthorized`); they go on by themselves with a new key"
        fix = "set another SHOAL_OPENROUTER_API_KEY and restart the workers"
        yield fault("provider-key", "the provider refuses the key", why, fix)
        return
    yield from _credit(facts.key, facts.asked_at)
    if facts.card is None:
        why = "every job becomes a dead letter (`request_refused`)"
        yield fault("provider-model", f"the provider has no model {asked.model}", why, "set SHOAL_MODEL to one it has")
        return
    yield from _model(facts.card, asked, facts.asked_at)


def _credit(key: KeyStatus, now: float) -> Iterator[Finding]:
    left = key.limit_remaining_usd
    fix = "raise the key's limit or its budget with the provider"
    if left is not None and left <= 0:
        yield fault("provider-credit", "the key may spend nothing more", _STOPS, fix)
    elif left is not None and left < LOW_USD:
        yield warning("provider-credit", f"the key may spend {left:.2f} USD more", _STOPS, fix)
    else:
        may = "has no limit of its own" if left is None else f"may spend {left:.2f} USD more"
        yield fine(
            "provider-credit", f"the key is good and {may}; an account's own credit is shown to management keys only"
        )
    if key.is_free_tier:
        why = "models that cost are refused, free ones answer 50 calls a day"
        yield warning("provider-credit", "nothing was ever paid into the key's account", why, "buy credits")
    if key.expires_at is not None and key.expires_at - now < SOON_SECONDS:
        day = datetime.fromtimestamp(key.expires_at, UTC).date()
        yield warning(
            "provider-key", f"the key expires on {day}", _STOPS, "make a new one and restart the workers with it"
        )


def _model(card: ModelCard, asked: Asked, now: float) -> Iterator[Finding]:
    if card.expires_at is not None and card.expires_at - now < SOON_SECONDS:
        day = datetime.fromtimestamp(card.expires_at, UTC).date()
        why = "after it every job becomes a dead letter (`request_refused`)"
        yield warning("provider-model", f"{asked.model} is taken away on {day}", why, "set SHOAL_MODEL to another")
    else:
        yield fine("provider-model", f"the provider has {asked.model}")
    if card.parameters is not None:
        yield from _parameters(card.parameters, asked)
    if card.prices is not None and asked.is_openrouter and card.prices != asked.prices:
        told, ours = card.prices, asked.prices
        yield warning(
            "provider-prices",
            f"a million tokens of {asked.model} (in, cached, out) cost {_money(told)} USD, here {_money(ours)}",
            "what lost replies may have cost is bounded with the settings' prices",
            f"SHOAL_PRICE_INPUT_USD={told.input_usd:g} SHOAL_PRICE_CACHED_USD={told.cached_usd:g} "
            f"SHOAL_PRICE_OUTPUT_USD={told.output_usd:g}",
        )


def _parameters(known: frozenset[str], asked: Asked) -> Iterator[Finding]:
    lacking = []
    if "response_format" not in known:
        lacking.append("response_format")
        why, fix = "answers are not held to a form, and most become `misfit` dead letters", "set SHOAL_MODEL to another"
        yield fault("provider-parameters", f"{asked.model} takes no response_format", why, fix)
    elif "structured_outputs" not in known:
        lacking.append("structured_outputs")
        why = "answers that do not fit are asked for again, and paid for again, up to twice"
        fix = "set SHOAL_MODEL to one with structured_outputs"
        yield warning("provider-parameters", f"{asked.model} does not promise to keep to a schema", why, fix)
    caps = {"max_completion_tokens", "max_tokens"}
    if asked.cap_field not in known and known & caps:
        lacking.append(asked.cap_field)
        other = min(known & caps)
        why = "a parameter that a model does not know is left out without a word: nothing would bound an answer"
        yield warning(
            "provider-parameters", f"{asked.model} names no {asked.cap_field}", why, f"SHOAL_CAP_FIELD={other}"
        )
    if asked.is_openrouter and "reasoning" not in known:
        lacking.append("reasoning")
        why = "it may think before it answers, and thoughts are paid for"
        yield warning("provider-parameters", f"{asked.model} cannot be told not to reason", why, "look at `shoal cost`")
    if not lacking:
        yield fine("provider-parameters", f"{asked.model} takes all that Shoal asks of it")


def _money(prices: Prices) -> str:
    return f"{prices.input_usd:g}, {prices.cached_usd:g}, {prices.output_usd:g}"
