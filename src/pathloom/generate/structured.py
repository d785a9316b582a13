"""Holding a model on this machine to a JSON schema: tokens that would leave it are never drawn.

xgrammar (Apache-2.0) turns a schema into a grammar and a grammar into a mask over the vocabulary for every step.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pathloom.stage import UserError


def check_xgrammar() -> None:
    """Raises UserError where the package is missing."""
    if importlib.util.find_spec("xgrammar") is None or importlib.util.find_spec("tvm_ffi") is None:
        raise UserError(
            "structured: needs xgrammar: pip install --no-deps xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2 (with "
            "their dependencies on a GPU), or leave it false"
        )


class Grammars:
    """Schemas of one model, compiled once each."""

    def __init__(self, tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> None:
        """`vocab_size` is that of the scores, which may be padded beyond the tokenizer's; `ends` stop an answer."""
        import xgrammar

        self._info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocab_size, stop_token_ids=list(ends)
        )
        self._compiler = xgrammar.GrammarCompiler(self._info, max_threads=1)

    def hold(self, schemas: Sequence[Mapping[str, Any] | None], width: int) -> "Held":
        """For a batch whose prompts are `width` tokens long; rows without a schema are free."""
        import xgrammar

        matchers = [
            None
            if schema is None
            else xgrammar.GrammarMatcher(
                # no free white space: a small model would fill its answer with it
                self._compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
            )
            for schema in schemas
        ]
        return Held(matchers, self._info.vocab_size, width)


class Held:
    """A logits processor: B rows of the batch, T tokens so far, V the vocabulary."""

    def __init__(self, matchers: Sequence[Any], vocab_size: int, width: int) -> None:
        import xgrammar

        self._matchers = matchers
        self._width = width
        self._masks = xgrammar.allocate_token_bitmask(len(matchers), vocab_size)

    def __call__(self, tokens_BT: Any, scores_BV: Any) -> Any:
        import xgrammar

        rows = []
        for row, matcher in enumerate(self._matchers):
            if matcher is None or matcher.is_terminated():
                continue
            if tokens_BT.shape[1] > self._width:
                matcher.accept_token(int(tokens_BT[row, -1]))
            if not matcher.is_terminated():
                matcher.fill_next_token_bitmask(self._masks, row)
                rows.append(row)
        if rows:
            scores_BV = scores_BV.float().contiguous()
            xgrammar.apply_token_bitmask_inplace(scores_BV, self._masks.to(scores_BV.device), indices=rows)
        return scores_BV
