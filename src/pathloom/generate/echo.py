"""Generator `echo`: answers come from a function. For tests and dry runs; no model is asked."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from pathloom.generate.generator import Generation, Request


class Echo:
    """One answer at a time. Tokens are counted as words."""

    def __init__(self, reply: Callable[[Request], str | Generation], model: str = "echo") -> None:
        self.reply = reply
        self.model = model

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        for key, request in requests:
            reply = self.reply(request)
            if isinstance(reply, str):
                reply = Generation(
                    model=self.model,
                    text=reply,
                    prompt_tokens=sum(len(message.text.split()) for message in request.messages),
                    completion_tokens=len(reply.split()),
                )
            yield [(key, reply)]
