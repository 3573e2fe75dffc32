"""Asking until an answer fits. The model is a list of replies."""

import asyncio
from typing import Any

import pytest

from shoal import Usage
from shoal_worker.asking import Asker
from shoal_worker.errors import Misfit, ProviderUnavailable, Truncated, WorkerError
from shoal_worker.ports import ChatReply, ChatRequest, Prompt

PROMPT = Prompt("system", "user", "shoal_classify", {}, 100)
ONE_CALL = Usage(input_tokens=10, output_tokens=2, cost_usd=0.5, calls=1)


class Script:
    """Answers with what it was given, in order, and remembers what it was asked."""

    def __init__(self, *answers: str | WorkerError, finish: str = "stop") -> None:
        self.answers = list(answers)
        self.asked: list[ChatRequest] = []
        self.finish = finish

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, WorkerError):
            raise answer
        finish = "length" if answer == "CUT" else self.finish
        return ChatReply(answer, finish, "m", "p", f"gen-{len(self.asked)}", ONE_CALL)


def parse(answer: Any) -> str:
    if not isinstance(answer, dict) or "label" not in answer:
        raise Misfit("label is missing")
    return str(answer["label"])


def ask(model: Script) -> tuple[Asker, Any]:
    asker = Asker(model, "m", "job-1", 5.0)
    try:
        return asker, asyncio.run(asker(PROMPT, parse))
    except WorkerError as error:
        return asker, error


def test_a_misfit_is_asked_again_with_the_fault_named_and_the_prefix_kept() -> None:
    model = Script("{}", '{"label": "a"}')
    asker, answer = ask(model)
    assert answer == "a"
    assert model.asked[1].prompt.system == "system"
    assert model.asked[1].prompt.user.startswith("user\n\n")
    assert "label is missing" in model.asked[1].prompt.user
    assert asker.usage.calls == 2
    assert asker.usage.cost_usd == 1.0


def test_a_job_that_was_given_more_room_asks_for_it() -> None:
    model = Script('{"label": "a"}')
    asyncio.run(Asker(model, "m", "job-1", 5.0, cap_factor=2.0)(PROMPT, parse))
    assert model.asked[0].prompt.max_completion_tokens == 200


def test_the_same_misfit_twice_is_not_the_same_question_twice() -> None:
    """Else the provider's response cache would give the same answer again, and the last try would be none."""
    model = Script("{}", "{}", '{"label": "a"}')
    ask(model)
    assert len({(request.prompt.user, request.round) for request in model.asked}) == 3


def test_three_misfits_are_the_end() -> None:
    asker, error = ask(Script("{}", "no json", "{}"))
    assert isinstance(error, Misfit)
    assert asker.usage.calls == 3


def test_a_cut_answer_gets_more_room_once_and_is_never_parsed() -> None:
    model = Script("CUT", '{"label": "a"}')
    assert ask(model)[1] == "a"
    assert [request.prompt.max_completion_tokens for request in model.asked] == [100, 400]
    assert isinstance(ask(Script("CUT", "CUT"))[1], Truncated)


def test_a_failed_call_is_counted_too() -> None:
    asker, error = ask(Script(ProviderUnavailable("no", ONE_CALL)))
    assert isinstance(error, ProviderUnavailable)
    assert asker.usage == ONE_CALL


@pytest.mark.parametrize("answers", [("{}", '{"label": 1}')])
def test_the_note_never_repeats_the_answer(answers: tuple[str, ...]) -> None:
    model = Script('{"secret": "value"}', *answers)
    ask(model)
    assert all("secret" not in request.prompt.user for request in model.asked)
