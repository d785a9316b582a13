"""BLEU-4 of one text against one reference: how many word n-grams they share, and nothing about truth.

Its known faults, each with a test: a sentence and its denial share nearly all n-grams; a sentence of the usual form
earns a good part of the credit whatever it claims, so a constant caption is the number to beat (`best_constant_bleu4`);
a right answer in other words earns nothing; a question that holds the answer's words earns credit when it is copied.

On 300 phantom captions of each kind, with 95 % intervals (caption, cell_caption, patch_caption): one constant caption
earns 0.125 (0.102 to 0.151), 0.190 (0.156 to 0.225) and 0.146 (0.128 to 0.164), the truth with "no" before it 0.86,
0.86 and 0.97, the truth ten times over 0.08, 0.08 and 0.10, the question 0.01 or less, the commonest four words over
and over 0.04, 0.08 and 0.02. The commonest four words once earn nearly a constant caption's credit where captions are
short (cell_caption, 0.166).
"""

import re
from collections import Counter
from collections.abc import Sequence

BLEU4 = "bleu4"
CANDIDATES_MAX = 20
"""Texts tried as the constant answer: our own choice, for every one is compared with every Sample at 0.1 ms each."""


def bleu4(answer: str, truth: str) -> float:
    """Sentence BLEU (Papineni et al. 2002) over n-grams up to 4, in [0, 1], by NLTK with its smoothing method 4.

    Method 4 of Chen & Cherry 2014, "A systematic comparison of smoothing techniques for sentence-level BLEU", section
    3: the smoothed counts of n-grams that do not match shrink with the logarithm of the answer's length; the reward
    of open answers in arXiv 2505.15687. An answer of fewer than four words is scored over n-grams up to its own length
    (NLTK's auto_reweigh), for otherwise the right answer "necrosis" would not earn 1. Words are runs of letters and
    digits in lower case, so no punctuation pays. 0 for a text without words.
    """
    given, wanted = _words(answer), _words(truth)
    if not given or not wanted:
        return 0.0
    # here, because it brings scipy, scikit-learn and pandas along
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method4
    return float(sentence_bleu([wanted], given, smoothing_function=smoothing, auto_reweigh=True))


def best_constant_bleu4(truths: Sequence[str]) -> float:
    """Mean BLEU-4 of the best text said of every Sample; 0 for none.

    Looked for among the CANDIDATES_MAX commonest references, among equals those that come first.
    """
    candidates = [text for text, _ in Counter(truths).most_common(CANDIDATES_MAX)]
    return max(
        (sum(bleu4(constant, truth) for truth in truths) / len(truths) for constant in candidates),
        default=0.0,
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
