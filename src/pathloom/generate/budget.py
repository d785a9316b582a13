"""What a run may ask for, and what that costs."""

from pydantic import Field

from pathloom.generate.generator import Generation
from pathloom.schema import Record
from pathloom.stage import UserError


class Price(Record):
    """Money for a million tokens, in the currency of the whole table."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Caps(Record):
    """Where a stage stops asking. Counted are all answers of the stage, also those that an earlier start of the command
    paid for, so that starting again does not spend a cap again.
    """

    max_requests: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0, description="of prompts and completions together")
    max_cost: float | None = Field(default=None, ge=0, description="in the currency of the price table")


class Budget:
    """Counts what is asked and answered against the caps.

    Tokens and money are known when an answer comes, so they may be exceeded by the answers that are on their way.
    """

    def __init__(self, caps: Caps, price: Price | None, model: str) -> None:
        """Raises UserError for a cap on money without a price."""
        if caps.max_cost is not None and price is None:
            raise UserError(
                f"max_cost: no price for {model}; add `prices.{model}`, or cap max_tokens instead"
            )
        self.caps = caps
        self.price = price
        self.requests = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def cost(self) -> float:
        return self.price.of(self.prompt_tokens, self.completion_tokens) if self.price else 0.0

    def spent(self) -> str | None:
        """The cap that is reached, by its name; None while there is room."""
        used = {
            "max_requests": self.requests,
            "max_tokens": self.prompt_tokens + self.completion_tokens,
            "max_cost": self.cost,
        }
        for name, value in used.items():
            cap = getattr(self.caps, name)
            if cap is not None and value >= cap:
                return name
        return None

    def paid_before(self, generation: Generation) -> None:
        """An answer of an earlier run that the stage uses."""
        self.asked()
        self.answered(generation)

    def asked(self) -> None:
        self.requests += 1

    def answered(self, generation: Generation) -> None:
        self.prompt_tokens += generation.prompt_tokens
        self.completion_tokens += generation.completion_tokens
