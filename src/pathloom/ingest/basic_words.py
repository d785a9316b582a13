"""Questions without pictures: an option's letter, a fact, a comparison. Each `ask_` function makes one."""

from pathloom.ingest.drawn import Deal, Fields, Rng, sentences
from pathloom.phantom.words import blended_word, pick_words


def ask_word_choice(deal: Deal) -> tuple[None, Fields]:
    """Two to four options of one word each, out of all words."""
    options = pick_words(deal.rng, 2 + deal.index % 3, held_out=deal.test)
    return None, _choose(options, deal)


def ask_phrase_choice(deal: Deal) -> tuple[None, Fields]:
    """Two to six options of one to three words; some begin or end alike."""
    options = _phrases(deal.rng, 2 + deal.index % 5, held_out=deal.test)
    return None, _choose(options, deal)


def ask_blend_choice(deal: Deal) -> tuple[None, Fields]:
    """Two to five options of one or two words that are put together of others."""
    options: list[str] = []
    while len(options) < 2 + deal.index % 4:
        words = [blended_word(deal.rng, held_out=deal.test) for _ in range(int(deal.rng.integers(1, 3)))]
        if (option := " ".join(words)) not in options:
            options.append(option)
    return None, _choose(options, deal)


def _choose(options: list[str], deal: Deal) -> Fields:
    answer = options[int(deal.rng.integers(len(options)))]
    return {
        "what": answer,
        "choices": tuple(options),
        "answer": answer,
        "finding": answer,
        "reasoning": sentences(f"This is {answer}"),
    }


def _phrases(rng: Rng, count: int, *, held_out: bool) -> list[str]:
    """Different phrases, half of them with a word in common with the one before."""
    phrases: list[str] = []
    while len(phrases) < count:
        words = pick_words(rng, int(rng.integers(1, 4)), held_out=held_out)
        if phrases and rng.random() < 0.5:
            shared = phrases[-1].split()
            keep = int(rng.integers(len(shared)))
            words = [shared[keep], *words[:2]] if rng.random() < 0.5 else [*words[:2], shared[keep]]
        phrase = " ".join(dict.fromkeys(words))
        if phrase not in phrases:
            phrases.append(phrase)
    return phrases


def ask_lookup(deal: Deal) -> tuple[None, Fields]:
    """Two or three facts, one of which is asked about; the values are the options."""
    count = 2 + deal.index % 2
    words = pick_words(deal.rng, 2 * count, held_out=deal.test)
    names, values = words[:count], words[count:]
    asked = int(deal.rng.integers(count))
    return None, {
        "what": " ".join(f"The {name} is {value}." for name, value in zip(names, values, strict=True)),
        "other": names[asked],
        "choices": tuple(str(value) for value in deal.rng.permutation(values)),
        "answer": values[asked],
        "finding": values[asked],
        "reasoning": sentences(f"This is {values[asked]}"),
    }


def ask_match(deal: Deal) -> tuple[None, Fields]:
    """Is this that? The wrong one may share words with the right one."""
    # in either order: the second of two phrases is the longer one more often
    found, other = map(str, deal.rng.permutation(_phrases(deal.rng, 2, held_out=deal.test)))
    asked = found if deal.index % 2 else other
    return None, {
        "what": found,
        "other": asked,
        "answer": "yes" if asked == found else "no",
        "finding": found,
        "asked_finding": asked,
        "reasoning": sentences(f"Asked is {asked}", f"This is {found}"),
    }
