"""The peer: the same call in a plain Celery task, with settings that its users find after some trouble."""

import os

import httpx
from celery import Celery

app = Celery("peer", broker=os.environ["PEER_REDIS_URL"], backend=os.environ["PEER_REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    broker_transport_options={"max_connections": 1_000},
    redis_max_connections=1_000,
    worker_send_task_events=False,
)
client = httpx.Client(
    timeout=60,
    headers={"authorization": "Bearer peer"},
    limits=httpx.Limits(max_connections=1_000, max_keepalive_connections=1_000),
)
SYSTEM = "Choose one label for the text.\n- billing\n- bug\n- praise"
SCHEMA = {
    "type": "object",
    "properties": {
        "evidence": {"type": "string"},
        "label": {"type": "string", "enum": ["billing", "bug", "praise"]},
        "confidence": {"type": "number"},
    },
    "required": ["evidence", "label", "confidence"],
    "additionalProperties": False,
}


@app.task(name="peer.ask")
def ask(text: str) -> str:
    body = {
        "model": "openai/gpt-5.4-nano",
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"<text-0a0a0a0a>\n{text}\n</text-0a0a0a0a>"},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "shoal_classify", "strict": True, "schema": SCHEMA},
        },
        "max_completion_tokens": 200,
    }
    reply = client.post(f"{os.environ['PEER_MODEL_URL']}/chat/completions", json=body)
    reply.raise_for_status()
    content: str = reply.json()["choices"][0]["message"]["content"]
    return content
