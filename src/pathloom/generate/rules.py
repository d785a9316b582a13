"""Generator `rules`: writes reasoning from what a phantom's drawing says of itself. No model is asked.

It stands in for a language model where none can be asked: in the quickstart and in tests. Its model name begins with
`rules-`, so whatever it wrote is known as such in every Sample's history and in the report.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from pathloom.generate.generator import Generation, Request
from pathloom.phantom.tissue import DIAGNOSES
from pathloom.phantom.wording import ARCHITECTURE

_BATCH = 256  # answers in one commit to the store

_TEXT = re.compile(r"<(organ|caption|reference|question|options|answer)>(.*?)</\1>", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=\.) ")
_CONCLUSION = re.compile(r"This is ([^.]+)\.$")


class PhantomRules:
    """Replies to the prompts of the stage `reason` about phantoms; anything else is the error `no_truth`."""

    model = "rules-phantom-1"

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        source = iter(requests)
        while batch := list(islice(source, _BATCH)):
            yield [(key, self._answer(request)) for key, request in batch]

    def _answer(self, request: Request) -> Generation:
        reply = _reply(request)
        if reply is None:
            return Generation(
                model=self.model,
                error="no_truth",
                detail="the rule-based teacher writes about phantom tissue only; configure an endpoint or a model",
            )
        return Generation(model=self.model, text=json.dumps(reply))


def _reply(request: Request) -> dict[str, Any] | None:
    user = request.messages[-1].text
    texts = dict(_TEXT.findall(user))
    task = str((request.json_schema or {}).get("title"))
    truth = _SENTENCE_END.split(texts.get("reference", "").strip())
    if task == "ExplainReply":
        return {"steps": truth} if truth[0] else None
    concluded = _CONCLUSION.search(truth[-1])
    if concluded is None or concluded[1] not in DIAGNOSES or "caption" not in texts:
        return None
    diagnosis, caption = concluded[1], texts["caption"]
    steps = _steps(truth, diagnosis, user)
    match task:
        case "ChoiceReply":
            return {
                "steps": steps,
                "question": "What is the diagnosis?",
                "options": list(DIAGNOSES),
                "answer": diagnosis,
            }
        case "ReportReply":
            description = f"{' '.join(truth[:-1])} Impression: {diagnosis}."
            return {"steps": steps, "question": "Describe this tissue.", "description": description}
        case "ShortAnswerReply":
            return {"steps": steps, "question": "Name the diagnosis.", "answer": diagnosis}
        case "DialogueReply":
            asked = ("What does the architecture show?", "What else can be seen?", "What is the diagnosis?")
            said = (truth[0], " ".join(truth[1:-1]), f"{caption} {truth[-1]}")
            return {"steps": steps, "turns": _turns(asked, said)}
    return None


def _turns(questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    return [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]


def _steps(truth: Sequence[str], diagnosis: str, user: str) -> list[str]:
    """Short, middle or long, as the prompt's own bounds ask: 2, all, or all and what two others would look like."""
    least = int(re.search(r"Reason in (\d+) to", user)[1])  # type: ignore[index]
    if least <= 2:
        return [truth[0], truth[-1]]
    *seen, conclusion = truth
    if least <= len(truth):
        return [*seen, conclusion]
    others = [name for name in DIAGNOSES if name != diagnosis]
    start = DIAGNOSES.index(diagnosis)
    alternatives = [others[(start + turn) % len(others)] for turn in range(least - len(truth))]
    against = [f"{name.capitalize()} would show {_lower(ARCHITECTURE[name])}" for name in alternatives]
    return [*seen, *against, conclusion]


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
