"""Asking a model until its answer fits: the cap is raised once, a misfit is asked again with the fault named."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic_core import from_json

from shoal.jobs import Usage
from shoal_worker.errors import Misfit, Truncated, WorkerError
from shoal_worker.ports import ChatModel, ChatReply, ChatRequest, Prompt

T = TypeVar("T")

#: After the first answer.
MAX_REASKS = 2
#: How much more room an answer gets that did not fit.
CAP_FACTOR = 4


@dataclass(slots=True)
class Asker:
    """`ports.Ask` for one job. It adds up what all its calls cost, those that failed too."""

    model: ChatModel
    model_name: str
    custom_id: str
    deadline_seconds: float
    cap_factor: float = 1.0
    round: str = ""
    kind: str = ""
    tenant: str = ""
    usage: Usage = field(default_factory=Usage)
    replies: list[ChatReply] = field(default_factory=list)

    async def __call__(self, prompt: Prompt, parse: Callable[[Any], T]) -> T:
        fault = ""
        prompt = replace(prompt, max_completion_tokens=round(prompt.max_completion_tokens * self.cap_factor))
        asked = prompt
        for again in range(1 + MAX_REASKS):
            reply = await self._whole_reply(asked, again)
            try:
                return parse(_decoded(reply.content))
            except Misfit as error:
                fault = error.reason
                note = f"Your last answer did not fit: {fault}. Answer again."
                asked = replace(prompt, user=f"{prompt.user}\n\n{note}")
        raise Misfit(f"{fault} (asked {1 + MAX_REASKS} times)")

    async def _whole_reply(self, prompt: Prompt, again: int) -> ChatReply:
        reply = await self._complete(prompt, again)
        if reply.finish_reason != "length":
            return reply
        cap = prompt.max_completion_tokens * CAP_FACTOR
        reply = await self._complete(replace(prompt, max_completion_tokens=cap), again)
        if reply.finish_reason == "length":
            raise Truncated(f"the answer did not fit into {cap} tokens")
        return reply

    async def _complete(self, prompt: Prompt, again: int) -> ChatReply:
        # The same fault named twice makes the same prompt; the provider must not give the same answer to it.
        question = f"{self.round}.{again}" if again else self.round
        request = ChatRequest(
            prompt, self.model_name, self.custom_id, self.deadline_seconds, question, self.kind, self.tenant
        )
        try:
            reply = await self.model.complete(request)
        except WorkerError as error:
            self.usage += error.usage
            raise
        self.usage += reply.usage
        self.replies.append(reply)
        return reply


def _decoded(content: str) -> Any:
    try:
        return from_json(content)
    except ValueError:
        raise Misfit("it is not valid JSON") from None
