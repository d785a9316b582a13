"""The block of a recipe that says who is asked, how, and up to what price. No torch here. A hub model under `local` is
fetched as soon as its name is wanted, since its commit is part of it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from pathloom.generate.budget import Caps, Price
from pathloom.generate.endpoint import Endpoint, EndpointSettings
from pathloom.generate.generator import Generator, Sampling
from pathloom.schema import Record
from pathloom.stage import UserError


class EndpointRef(Record):
    """A server that speaks OpenAI's chat completions: vLLM, SGLang, Ollama, llama.cpp, or one on the internet."""

    url: str = Field(description="up to and with /v1")
    model: str
    api_key_env: str | None = Field(
        default=None, description="name of the environment variable that holds the key"
    )
    settings: EndpointSettings = EndpointSettings()

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from error
        if not known:
            raise ValueError(f"{url} is no address; write for example http://localhost:8000/v1")
        if "@" in parts.netloc:
            raise ValueError("a name and password do not belong here, where they are kept; use api_key_env")
        return url


class LocalRef(Record):
    """A text model on this machine, run by transformers."""

    model: str = Field(default="smollm2", description="`smollm2`, a folder, or a hub id")
    batch_size: int = Field(default=16, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    structured: bool = Field(default=False, description="hold answers to the JSON schema; needs xgrammar")


class SimulatedRef(Record):
    """No model: it knows the truth of the pictures from an earlier stage and errs as it is told to.

    A value is wrong with probability `error`, and then one of the attribute's other values: any of them alike, or, with
    `confusion: neighbour`, one beside the truth in the schema's order. `shared` is the share of decisions (right or
    wrong, and which wrong value) that an annotator takes from the stream of its `shared_seed`: errors that are
    correlated among those who take from the same one. An arbiter has an error and a seed alone.
    """

    role: Literal["annotator", "arbiter"] = "annotator"
    truth: str = Field(
        description="stage whose Samples hold the true attributes, or a class to draw them from"
    )
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    error: float | dict[str, float] = Field(
        default=0.2, description="of every attribute, or attribute -> error, for all of them"
    )
    cannot_tell: float = Field(
        default=0.0, ge=0, le=1, description="share of values that it says it cannot tell"
    )
    confusion: Literal["uniform", "neighbour"] = "uniform"
    shared: float = Field(default=0.0, ge=0, le=1)
    shared_seed: int = Field(default=0, ge=0)
    seed: int = Field(
        default=0, ge=0, description="two annotators of one seed and setting are the same model twice"
    )

    @model_validator(mode="after")
    def _settings_are_meant(self) -> "SimulatedRef":
        errors = self.error.values() if isinstance(self.error, dict) else (self.error,)
        for error in errors:
            if not 0 <= error <= 1:
                raise ValueError(f"error {error:g} is no probability; give 0 to 1")
        if self.role == "arbiter":
            for name in ("cannot_tell", "confusion", "shared", "shared_seed"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: an arbiter has only error and seed; leave it out")
        return self

    def error_of(self, name: str) -> float:
        """The error of one attribute."""
        return self.error[name] if isinstance(self.error, dict) else self.error

    def check(self, where: str) -> None:
        """Raises UserError for an unknown schema, and for errors that leave an attribute out or name another."""
        from pathloom.attributes import load_schema

        attributes = load_schema(self.attributes).attributes
        if isinstance(self.error, dict) and self.error.keys() != attributes.keys():
            odd = ", ".join(sorted(self.error.keys() ^ attributes.keys()))
            raise UserError(f"{where}.error: give one for each of {', '.join(attributes)}; differing: {odd}")


class GeneratorRef(Record):
    """Exactly one of them. `rules` and `simulated` are no models: the first writes down what a phantom's drawing says
    of itself, the second corrupts a known truth.
    """

    endpoint: EndpointRef | None = None
    local: LocalRef | None = None
    rules: Literal["phantom"] | None = None
    simulated: SimulatedRef | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "GeneratorRef":
        if sum(value is not None for value in (self.endpoint, self.local, self.rules, self.simulated)) != 1:
            raise ValueError("give exactly one of endpoint, local, rules and simulated")
        return self

    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages that it reads: the truth of what is simulated."""
        return (self.simulated.truth,) if self.simulated else ()

    @property
    def model(self) -> str:
        """The name by which `prices` know it."""
        if self.endpoint:
            return self.endpoint.model
        if self.simulated:
            return self.name()
        return self.local.model if self.local else f"rules-{self.rules}"

    def name(self) -> str:
        """The `model` of the Generator that `open` gives, without loading it: what keys are made of."""
        if self.endpoint:
            return self.endpoint.model
        if self.local:
            from pathloom.generate.local import local_name

            return local_name(self.local.model, self.local.dtype, self.local.structured)
        if self.simulated:
            from pathloom.generate.simulated import simulated_name

            return simulated_name(self.simulated)
        from pathloom.generate.rules import PhantomRules

        return PhantomRules.model

    @property
    def at_once(self) -> int:
        """Requests that are answered at the same time."""
        if self.endpoint:
            return self.endpoint.settings.connections
        return self.local.batch_size if self.local else 1

    def open(self, inputs: Mapping[str, Path]) -> Generator:
        """`inputs` are the folders of `needs`. Raises UserError for a key or a package that is not there."""
        if self.endpoint:
            ref = self.endpoint
            return Endpoint(
                ref.url, ref.model, api_key=_api_key(ref), api_key_env=ref.api_key_env, settings=ref.settings
            )
        if self.local:
            from pathloom.generate.local import open_local

            local = self.local
            return open_local(
                local.model, batch_size=local.batch_size, dtype=local.dtype, structured=local.structured
            )
        if self.simulated:
            from pathloom.generate.simulated import open_simulated

            return open_simulated(self.simulated, inputs)
        from pathloom.generate.rules import PhantomRules

        return PhantomRules()


def _api_key(ref: EndpointRef) -> str | None:
    """Raises UserError for a variable that is not set or holds no key; no message holds what it holds."""
    key = None
    if ref.api_key_env is not None:
        key = os.environ.get(ref.api_key_env, "").strip()
        if not key:
            raise UserError(
                f"api_key_env: the environment variable {ref.api_key_env} is not set; set it to the key"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"api_key_env: {ref.api_key_env} holds signs that no key has, as a line break; set it anew"
            )
    return key


class Asking(Caps):
    """Who is asked, how, and where asking stops. Only generator and sampling decide what is answered."""

    generator: GeneratorRef
    sampling: Sampling = Sampling()
    attempts: int = Field(
        default=2, ge=1, description="times that a request is asked until its answer can be read"
    )
    prices: dict[str, Price] = Field(default={}, description="model -> money for a million tokens")
    max_failed: float = Field(
        default=0.01, ge=0, le=1, description="share of requests that may fail; above it the stage stops"
    )
    max_unreadable: float = Field(
        default=0.5, ge=0, le=1, description="share whose answers cannot be read; above it the stage stops"
    )
    partial: bool = Field(
        default=False, description="go on with what is answered when a cap is reached; the rest are Drops"
    )

    @property
    def price(self) -> Price | None:
        return self.prices.get(self.generator.model)

    def needs(self) -> tuple[str, ...]:
        return self.generator.needs()

    def check(self, where: str) -> None:
        """Raises UserError for a cap on money without a price, and for a key that is not there."""
        if self.generator.endpoint is not None:
            _api_key(self.generator.endpoint)
        if self.generator.simulated is not None:
            self.generator.simulated.check(f"{where}.generator.simulated")
        if self.max_cost is not None and self.price is None:
            known = ", ".join(self.prices) or "none"
            raise UserError(
                f"{where}.max_cost: no price for {self.generator.model}; add `prices: {{{self.generator.model}: "
                f"{{prompt: ..., completion: ...}}}}`, or cap max_tokens instead; priced are: {known}"
            )

    def check_sees_pictures(self, where: str, role: Literal["annotator", "arbiter"], attributes: str) -> None:
        """As `check`; also raises UserError for a Generator that sees no pictures, or is simulated in another role
        or for another attribute schema than the one asked about.
        """
        generator = self.generator
        if generator.local or generator.rules:
            raise UserError(f"{where}.generator: `local` and `rules` see no pictures; give an endpoint")
        if generator.simulated and generator.simulated.role != role:
            raise UserError(
                f"{where}.generator.simulated.role: {generator.simulated.role} is no {role}; write `role: {role}`"
            )
        if generator.simulated and generator.simulated.attributes != attributes:
            raise UserError(
                f"{where}.generator.simulated.attributes: {generator.simulated.attributes}, but {attributes} is asked "
                f"about; write `attributes: {attributes}`"
            )
        self.check(where)

    def decides(self) -> dict[str, object]:
        """What the result depends on: what else stands here may change without asking anything anew. With `partial` the
        caps decide too, as they say which Samples become Drops.
        """
        caps = {name: getattr(self, name) for name in Caps.model_fields} if self.partial else None
        return {
            "model": self.generator.name(),
            "sampling": self.sampling.model_dump(),
            "attempts": self.attempts,
            "partial": caps,
        }
