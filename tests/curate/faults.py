"""Faults planted in written rows, one each: what the rule filters must find. Nothing here reads the filters.

The lists of diagnoses, markers and wordings are ours, and were written before the filters.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from tests.curate.written import capital, pick, soft, topic_of

from pathloom.curate.prompts import levels
from pathloom.schema import Sample

Fault = Callable[[Sample, np.random.Generator, Sequence[Sample]], Sample]

_HAN = (
    "\u53ef\u4ee5\u770b\u5230\u80bf\u7624\u7ec6\u80de\u5f02\u578b\u6027\u660e\u663e\u3002",
    "\u6838\u5206\u88c2\u8c61\u591a\u89c1\uff0c", "\u56e0\u6b64\u8bca\u65ad\u4e3a\u764c\u3002",
    "\u708e\u6027\u7ec6\u80de\u6d78\u6da6",
)  # fmt: skip
_HAN_WORDS = (
    "\u7ec6\u80de", "\u80bf\u7624", "\u4e0a\u76ae", "\u574f\u6b7b", "\u7ea4\u7ef4\u5316", "\u75c5\u7406",
)  # fmt: skip
_CYRILLIC = (
    "\u043a\u043b\u0435\u0442\u043a\u0438 \u043e\u043f\u0443\u0445\u043e\u043b\u0438 "
    "\u0440\u0430\u0441\u043f\u043e\u043b\u043e\u0436\u0435\u043d\u044b "
    "\u0433\u043d\u0435\u0437\u0434\u0430\u043c\u0438",
    "\u0442\u0430\u043a\u0438\u043c \u043e\u0431\u0440\u0430\u0437\u043e\u043c, "
    "\u0434\u0438\u0430\u0433\u043d\u043e\u0437 \u044f\u0441\u0435\u043d",
    "\u0432\u043e\u0441\u043f\u0430\u043b\u0435\u043d\u0438\u0435",
)
_REVEALS = (
    "As the caption states, this is typical.", "According to the text, the change is diffuse.",
    "Figure 3 shows the same change.", "The arrow points to the lesion.", "The legend mentions this as well.",
    "The description says that it is common.", "Based on the provided information, this is clear.",
    "The passage notes the border.", "In panel B the change is larger.",
    "The accompanying text explains the origin.", "The structure marked with an asterisk is the vessel.",
    "Arrowheads mark the edge.", "As seen in Fig. 2b, the wall is thick.", "The image description supports this.",
    "From the provided context, the site is known.", "It is stated that the patient was treated.",
    "The cell labelled C is the one in question.", "The in-line reference adds the stain.",
    "The authors describe the same finding.", "The given caption leaves no doubt.",
    "We are told that the lesion recurred.", "The lesion (A) lies beside the duct (B).",
    "As mentioned in the reference, it is benign.", "The written information gives the site.",
    "The text does not mention any necrosis.", "Since the caption names the organ, this is settled.",
    "See also Table 2 for the counts.", "The source reports a similar case.",
    "This is indicated by the white arrows.", "The area at [X] is the cyst.",
)  # fmt: skip
_DIAGNOSES = (
    "Whipple disease", "sarcoidosis", "Hodgkin lymphoma", "papillary thyroid carcinoma", "glioblastoma",
    "cryptococcosis", "gout", "amyloidosis", "Barrett oesophagus", "Crohn disease", "endometriosis",
    "rhabdomyosarcoma", "Wilms tumour", "mycosis fungoides", "seminoma", "phaeochromocytoma", "multiple myeloma",
    "Kaposi sarcoma", "ependymoma", "lupus nephritis", "giant cell arteritis", "pseudomembranous colitis",
    "mesothelioma", "hydatid cyst", "Warthin tumour", "lichen planus", "osteosarcoma", "choriocarcinoma",
    "Hashimoto thyroiditis", "neuroblastoma", "carcinoid", "polyarteritis nodosa", "Langerhans cell histiocytosis",
    "pemphigus vulgaris", "hepatoblastoma", "Paget disease", "leprosy", "craniopharyngioma",
)  # fmt: skip
_CLAIMS = (
    (
        "The cells are positive for {}.",
        "CD20, CD3, HER2, TTF-1, S100, synaptophysin, chromogranin, desmin, CD117, ER and PR, Ki-67, p63, "
        "HMB-45, CK20, vimentin, "
        "cytokeratin 7, GFAP, PAX8, calretinin, BCL-2, GATA3, myogenin, PSA, ALK",
    ),
    (
        "The {} stain is positive.",
        "Congo red, PAS, Ziehl-Neelsen, Grocott silver, Masson trichrome, Prussian blue, mucicarmine, "
        "Alcian blue, reticulin, Giemsa, "
        "Gram, von Kossa, oil red O, Papanicolaou, toluidine blue, Warthin-Starry",
    ),
    (
        "The same change is present in the {}.",
        "pancreas, spleen, thyroid, urinary bladder, adrenal gland, prostate, tongue, larynx, uterus, "
        "gallbladder, oesophagus, "
        "parotid gland, retina, testis, duodenum, thymus, cerebellum, ureter",
    ),
    (
        "{} organisms are seen.",
        "Aspergillus, Helicobacter pylori, Candida, Cytomegalovirus, Mycobacterium tuberculosis, Giardia, "
        "Cryptococcus, Toxoplasma, "
        "Pneumocystis, Herpes simplex virus, Entamoeba histolytica, Histoplasma, HPV, Staphylococcus aureus",
    ),
    (
        "{}.",
        "About 37% of the nuclei are stained, The lesion measures 4.7 cm, "
        "There are 23 mitoses in 10 high-power fields, "
        "The patient is 61 years old, It involves 16 of 19 lymph nodes, The depth of invasion is 2.8 mm, "
        "The signal ratio is 6.3, "
        "The Gleason score is 9, It weighed 730 g",
    ),
)


def _split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)


def _insert(text: str, piece: str, rng: np.random.Generator) -> str:
    """`piece` before a sentence, not before the first."""
    parts = _split_sentences(text)
    at = int(rng.integers(1, len(parts) + 1))
    return " ".join([*parts[:at], piece, *parts[at:]])


def _set(sample: Sample, **fields: object) -> Sample:
    return Sample(**{**dict(sample), **fields})


def _reason(sample: Sample) -> str:
    return sample.reasoning or ""


def _somewhere(sample: Sample, piece: str, rng: np.random.Generator) -> Sample:
    """A sentence put into the reasoning or, where the answer is prose, into the answer."""
    if sample.task in ("report", "dialogue") and rng.random() < 0.4:
        return _set(sample, answer=_insert(sample.answer, piece, rng))
    return _set(sample, reasoning=_insert(_reason(sample), piece, rng))


def mixed_language(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    kind = int(rng.integers(3))
    if kind == 1:  # a few Han words between English ones
        words = _reason(sample).split()
        for word in rng.choice(np.array(_HAN_WORDS), 3, replace=False):
            words.insert(int(rng.integers(1, len(words))), str(word))
        return _set(sample, reasoning=" ".join(words))
    return _somewhere(sample, pick(rng, _HAN if kind == 0 else _CYRILLIC), rng)


def repetition(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    parts = _split_sentences(_reason(sample))
    kind, times = int(rng.integers(3)), int(rng.integers(6, 30))
    if kind == 0:
        return _set(sample, reasoning=" ".join([*parts, *[parts[-1]] * times]))
    words = _reason(sample).split()
    size = int(rng.integers(4, 9))
    at = int(rng.integers(max(len(words) - size, 1)))
    looped = words[at : at + size] * (times + 4)
    if kind == 1:
        return _set(sample, reasoning=" ".join([*words[:at], *looped, *words[at:]]))
    return _set(sample, reasoning=" ".join([*words[: at + size], *looped])[:-3])


def too_short(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    parts = _split_sentences(_reason(sample))
    keep = {"easy": 1, "medium": int(rng.integers(1, 3)), "hard": int(rng.integers(1, 4))}[str(sample.level)]
    return _set(sample, reasoning=" ".join(parts[-keep:]))


def too_long(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    """Three to five times the most steps of the level, each a sentence of its own, none twice."""
    wanted = int(levels()[str(sample.level)].most * (3 + 2 * rng.random()))
    parts = _split_sentences(_reason(sample))
    for place in rng.permutation(len(pool)):
        if len(parts) >= wanted:
            break
        other = _split_sentences(_reason(pool[place]))
        parts[1:1] = [part for part in other[:2] if part not in parts]
    return _set(sample, reasoning=" ".join(parts))


def reveals(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    """One of many wordings, or a sentence of a caption with its own arrow or letter left in."""
    marked = re.findall(r"[A-Z][^.]*\((?:arrows?|arrowheads?|[A-D])\)[^.]*\.", sample.context)
    piece = pick(rng, marked) if marked and rng.random() < 0.8 else pick(rng, _REVEALS)
    return _somewhere(sample, piece, rng)


def _claim(sample: Sample, rng: np.random.Generator) -> tuple[bool, str]:
    """Whether it is a diagnosis, and its words; none of them stands in the context."""
    said = sample.context.lower()
    while True:
        diagnosis = bool(rng.random() < 0.4)
        sentence, names = _CLAIMS[int(rng.integers(len(_CLAIMS)))]
        name = pick(rng, _DIAGNOSES) if diagnosis else pick(rng, names.split(", "))
        heads = re.findall(r"[a-z]{5,}|[a-z-]*\d+", name.lower())
        if not any(head[:6] in said for head in heads or [name.lower()]):
            return diagnosis, name if diagnosis else sentence.format(name)


def _inside(text: str) -> str:
    """First letter lower, but not of an abbreviation or an organism."""
    return text[0].lower() + text[1:] if text.startswith(("The ", "About ", "There ", "It ")) else text


def invented_in_answer(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    diagnosis, claim = _claim(sample, rng)
    if sample.task in ("report", "dialogue"):
        claim = f"The appearance is that of {claim}." if diagnosis else claim
        return _set(sample, answer=f"{sample.answer} {claim}")
    claim = (
        capital(claim) if diagnosis else f"{capital(topic_of(sample.context))}; {_inside(claim)}".rstrip(".")
    )
    if not sample.choices:
        return _set(sample, answer=claim)
    options = tuple(claim if option == sample.answer else option for option in sample.choices)
    return _set(sample, answer=claim, finding=claim, choices=options)


def invented_as_conclusion(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    diagnosis, claim = _claim(sample, rng)
    claim = f"Therefore this is {claim}." if diagnosis else f"In conclusion, {_inside(claim)}"
    return _set(sample, reasoning=f"{_reason(sample)} {claim}")


def invented_in_step(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    diagnosis, claim = _claim(sample, rng)
    parts = _split_sentences(_reason(sample))
    claim = f"The lesion shows {claim}." if diagnosis else claim
    return _set(sample, reasoning=" ".join([parts[0], claim, *parts[1:]]))


def markup(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    text, kind = _reason(sample), int(rng.integers(7))
    first, _, rest = text.partition(". ")
    written = (
        f"<think>{text}</think>", f"{text} <answer>{sample.answer}</answer>", f"{first}.</think> {rest}",
        f"**{first}.** {rest}",
        f"## Findings\n{text}", f"- {first}.\n- {rest}", '{"steps": ["' + first + '."], "rest": "' + rest + '"}',
    )  # fmt: skip
    return _set(sample, reasoning=written[kind])


def bad_choices(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    """Of a choice Sample: answer not offered, options alike, fewer than four, or the answer in the question."""
    kind, wrong = int(rng.integers(4)), [o for o in sample.choices if o != sample.answer]
    if kind == 0:
        return _set(sample, choices=(*wrong, "None of these"))
    if kind == 1:
        twin = pick(
            rng, [wrong[0].upper(), wrong[0] + ".", f" {wrong[0].lower()} ", wrong[0].replace(" ", ", ", 1)]
        )
        return _set(sample, choices=(wrong[0], twin, *wrong[1:3], sample.answer))
    if kind == 2:
        return _set(sample, choices=(*wrong[: int(rng.integers(0, 3))], sample.answer))
    return _set(sample, question=f"The image shows {soft(sample.answer)}. What is the diagnosis?")


_META = (
    "As an AI, I cannot give a medical diagnosis.", "I cannot see the image, so this is a guess.",
    "I'm sorry, but I can't help with that.", "As a language model I have no access to the image.",
    "Please note that I am unable to view images.", "Sure, here is the reasoning you asked for.",
    "The user wants a question of easy level.", "Let me write the JSON now.",
    "Wait, I need to follow the instructions.", "Please consult a doctor for advice.",
    "No image was provided, so this stays general.", "Okay, so I need to come up with six steps.",
    "The prompt asks for one alternative.", "I hope this helps!",
)  # fmt: skip


def meta_talk(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    return _somewhere(sample, pick(rng, _META), rng)


def cut_off(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    """In the middle of the last sentence; of a report or dialogue also in its answer."""
    if sample.task in ("report", "dialogue") and rng.random() < 0.5:
        words = sample.answer.split()
        return _set(sample, answer=" ".join(words[: len(words) - int(rng.integers(2, 4))]).rstrip(".,"))
    words = _reason(sample).split()
    text = " ".join(words[: len(words) - int(rng.integers(1, 5))]).rstrip(".")
    return _set(
        sample, reasoning=text if rng.random() < 0.6 else text[: -int(rng.integers(1, 4))].rstrip(".")
    )


_BROKEN = (
    "\x00", "\x07cells", "\ufffd", "cell\u00e2\u20ac\u2122s", "na\u00c3\u00afve", "5 \u00c2\u00b5m", "\x1b[0m",
    "\u200b\u200bcell\u200b", "\u00e2\u20ac\u0153so\u00e2\u20ac\u009d", "\u202ecells",
)  # fmt: skip


def broken_text(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    words = _reason(sample).split()
    words.insert(int(rng.integers(1, len(words))), pick(rng, _BROKEN))
    return _set(sample, reasoning=" ".join(words))


def near_duplicate(sample: Sample, rng: np.random.Generator, pool: Sequence[Sample]) -> Sample:
    """The same with one word in fifty changed, at least one, and another id."""
    words = _reason(sample).split()
    for place in rng.choice(len(words), max(len(words) // 50, 1), replace=False):
        words[int(place)] = "rather"
    return _set(sample, id=f"{sample.id}/again", reasoning=" ".join(words))


FAULTS: dict[str, Fault] = {
    "mixed language": mixed_language,
    "repetition": repetition,
    "too short": too_short,
    "too long": too_long,
    "reveals the text": reveals,
    "invented, in the answer": invented_in_answer,
    "invented, as conclusion": invented_as_conclusion,
    "invented, in a step": invented_in_step,
    "tags or markup": markup,
    "bad choices": bad_choices,
    "meta talk": meta_talk,
    "cut off": cut_off,
    "broken text": broken_text,
}
"""Name -> what plants it. Near duplicates are not among them: no filter of one row can see them."""
