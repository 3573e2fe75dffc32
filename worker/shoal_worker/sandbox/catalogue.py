"""The one model the sandbox sells, as the catalogue endpoints tell it."""

from typing import Any

AUTHOR = "openai"
MODEL = "openai/gpt-5.4-nano"
#: Answers name the dated slug whichever of the two was asked for.
DATED_MODEL = "openai/gpt-5.4-nano-20260317"
SLUGS = frozenset({MODEL, DATED_MODEL})
PROVIDER = "OpenAI"
MAX_COMPLETION_TOKENS = 128_000
CONTEXT_TOKENS = 400_000

PROMPT_USD_PER_MILLION = 0.20
CACHED_USD_PER_MILLION = 0.02
COMPLETION_USD_PER_MILLION = 1.25

_PRICING = {
    "prompt": "0.0000002",
    "completion": "0.00000125",
    "request": "0",
    "image": "0",
    "web_search": "0.01",
    "input_cache_read": "0.00000002",
    "internal_reasoning": "0",
}
_PARAMETERS = [
    "include_reasoning",
    "max_completion_tokens",
    "max_tokens",
    "reasoning",
    "response_format",
    "seed",
    "structured_outputs",
    "tool_choice",
    "tools",
]
_ARCHITECTURE = {
    "modality": "text+image->text",
    "input_modalities": ["text", "image"],
    "output_modalities": ["text"],
    "tokenizer": "GPT",
}

MODEL_CARD: dict[str, Any] = {
    "id": MODEL,
    "canonical_slug": DATED_MODEL,
    "name": "OpenAI: GPT-5.4 Nano (sandbox)",
    "created": 1_773_705_600,
    "context_length": CONTEXT_TOKENS,
    "architecture": _ARCHITECTURE,
    "pricing": _PRICING,
    "top_provider": {
        "context_length": CONTEXT_TOKENS,
        "max_completion_tokens": MAX_COMPLETION_TOKENS,
        "is_moderated": True,
    },
    "supported_parameters": _PARAMETERS,
    "default_parameters": {},
    "per_request_limits": None,
    "reasoning": {
        "mandatory": False,
        "default_enabled": False,
        "default_effort": "none",
        "supported_efforts": ["none", "low", "medium", "high", "xhigh"],
    },
    "expiration_date": None,
    "knowledge_cutoff": "2025-08-31",
    "links": {"details": f"/api/v1/models/{DATED_MODEL}/endpoints"},
}

ENDPOINTS_CARD: dict[str, Any] = {
    "id": MODEL,
    "name": MODEL_CARD["name"],
    "created": MODEL_CARD["created"],
    "architecture": _ARCHITECTURE,
    "endpoints": [
        {
            "name": f"{PROVIDER} | {DATED_MODEL}",
            "tag": AUTHOR,
            "model_id": MODEL,
            "provider_name": PROVIDER,
            "context_length": CONTEXT_TOKENS,
            "max_prompt_tokens": None,
            "max_completion_tokens": MAX_COMPLETION_TOKENS,
            "pricing": _PRICING,
            "supported_parameters": _PARAMETERS,
            "quantization": None,
            "service_tier": "default",
            "supports_implicit_caching": True,
            "status": 0,
            "uptime_last_30m": 100,
        }
    ],
}
