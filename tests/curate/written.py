"""Real captions, and the rows that a good writer could make of them: what the rule filters must not drop.

The captions stay where they are (PATHLOOM_DATA). The sentences around them are ours. Nothing here reads the filters.
"""

import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pathloom.curate.prompts import levels
from pathloom.curate.words import organ_of
from pathloom.schema import Event, Level, Origin, Sample, Turn

LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")
TASKS = ("choice", "report", "short_answer", "dialogue")
_CNXML = "{http://cnx.rice.edu/cnxml}"


@dataclass(frozen=True)
class Caption:
    """A caption as its source has it, HTML removed; `reference` is text that stands near it."""

    id: str
    text: str
    licence: str
    reference: str = ""


def digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def held_out(caption_id: str) -> bool:
    """Half of the captions, by hash: never looked at while thresholds and lexicon were chosen."""
    return digest(f"half/{caption_id}") % 2 == 1


# --- real captions --------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Without HTML. The teaching captions lost their quotation marks to `?`; those inside a word are put back."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", text)).replace("\\", "")
    text = re.sub(r"(?<=[a-z])\?(?=(?:s|t)\b)", "'", text.replace("\x92", "'"))
    text = re.sub(r"(?<!\w)\?(\w[\w -]*)\?(?!\w)", r'"\1"', text)
    return " ".join(re.sub(r"(?<=[a-z])\.(?=[A-Z])", ". ", text).split())


def _teaching(root: Path) -> Iterator[Caption]:
    text = (root / "questions/teaching_captions/data.js").read_bytes().decode("cp1252", "replace")
    before = ""
    for name, raw in re.findall(r"^\s*\[\s*'([^']+)'\s*,\s*'((?:[^'\\]|\\.)*)'", text, re.MULTILINE):
        caption = _plain(raw)
        reference = before if digest(caption) % 3 == 0 else ""
        yield Caption(f"teaching/{name}/{digest(caption)}", caption, "none", reference)
        before = caption


def _roco(root: Path) -> Iterator[Caption]:
    folder = root / "questions/roco_captions"
    rows = [line.split(",") for line in (folder / "licences.txt").read_text("utf-8").splitlines()[1:]]
    licence = {row[0]: row[-1] for row in rows}
    for line in (folder / "captions.txt").read_text("utf-8").splitlines():
        name, _, caption = line.partition("\t")
        yield Caption(name, _plain(caption), licence.get(name, "none"))


def _openstax(root: Path) -> Iterator[Caption]:
    for path in sorted(root.glob("documents/openstax/*/index.cnxml")):
        tree = ElementTree.fromstring(path.read_text("utf-8"))
        for figure in tree.iter(f"{_CNXML}figure"):
            linked = [
                para
                for para in tree.iter(f"{_CNXML}para")
                if any(link.get("target-id") == figure.get("id") for link in para.iter(f"{_CNXML}link"))
            ]
            reference = " ".join("".join(linked[0].itertext()).split()) if linked else ""
            for caption in figure.iter(f"{_CNXML}caption"):
                text = re.sub(r"\((?:credit|[a-d]\b)[^()]*\)", "", "".join(caption.itertext()))
                yield Caption(f"openstax/{figure.get('id')}", _plain(text), "CC-BY-NC-SA-4.0", reference)


def real_captions(root: Path) -> list[Caption]:
    """Captions of at least eight words that tell an organ and have a first noun phrase; no text occurs twice."""
    kept: dict[str, Caption] = {}
    for read in (_teaching, _roco, _openstax):
        for caption in read(root):
            if len(caption.text.split()) >= 8 and organ_of(caption.text) and topic_of(caption.text):
                kept.setdefault(caption.text, caption)
    return list(kept.values())


# --- clean rows -----------------------------------------------------------------------------------------------------

_MARKS = re.compile(
    r"\((?:[^()]*\b(?:arrow|arrowhead|asterisk|fig|figure|top|bottom|left|right|inset|star)\w*\b[^()]*|"
    r"[A-Z]{1,2}(?:, ?[A-Z])*"
    r"|\W*)\)|\[[^\]]*\]|\(? ?\b(?:at )?\d+x\b ?\)?",
    re.IGNORECASE,
)
_UNFIT = re.compile(
    r"arrow|figure|\bfig\b|diagram|panel|inset|slide|label|legend|caption|courtesy|abbreviation|notes?:|"
    r"previous|asterisk"
    r"|\bstars?\b|above|below|\b[A-H]\b|\(\w\)|[=/\u00a9\ufffd?;]|\.\.|->|\btable\b|\btext\b|described|"
    r"mentioned|next image|credit",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"^(?:gross|micro|microscopic|histology|x-ray)\w* ?: *|^(?:this|here) (?:is|are) (?:the |"
    r"an? )?(?:\w+ )?(?:appearance|example|view|section"
    r"|case|picture)s? of (?:an? |the )?|^(?:this|here) (?:is|are) (?:an? |the )?|^(?:\w+[- ])*(?:power|"
    r"magnification)(?: view| picture)?"
    r"(?: showing| of)?:? ?(?:an? |the )?|^(?:[\w-]+ ){0,2}(?:(?:photo|micro|photomicro)(?:graph)?|image|view|"
    r"appearance|example|schematic|section)s? (?:showing|of) (?:an? |the )?",
    re.IGNORECASE,
)
_REWORD = (
    (r"\btumor", "tumour"), (r"\bhemorrhag", "haemorrhag"), (r"\bischemi", "ischaemi"), (r"\bedema\b", "oedema"),
    (r"\bshowing\b", "with"), (r"\bshows\b", "displays"), (r"\bdemonstrates\b", "shows"), (r"\breveals\b", "shows"),
    (r"\bRBCs?\b", "red blood cells"), (r"\bMI\b", "myocardial infarction"), (r"\bLV\b", "left ventricle"),
    (r"\bnumerous\b", "many"), (r"\bmultinucleated\b", "multi-nucleated"),
    (r"\bNote (?:that )?the\b", "One sees the"), (r"\bdue to\b", "because of"),
    (r"\bhyper-eosinophilia\b", "hypereosinophilia"), (r"\bH ?and ?E\b", "H&E"), (r"\bred-brown\b", "red brown"),
    (r"\bkidneys\b", "renal tissue"), (r"\bneutrophils\b", "polymorphs"),
)  # fmt: skip
"""What a writer changes without changing what is said: spelling, abbreviations, near synonyms."""

_INFERRED = (
    (r"adenocarcinoma|squamous cell carcinoma", "a malignant epithelial neoplasm"),
    (r"sarcoma", "a malignant mesenchymal neoplasm"), (r"carcinoma", "cancer"),
    (r"lymphoma|leuk", "a haematolymphoid malignancy"), (r"infarct", "ischaemic necrosis"),
    (r"melanoma", "a malignant melanocytic tumour"), (r"thromb|embol", "vascular occlusion"),
    (r"(?<!non-)cirrho", "end-stage fibrosis of the liver"), (r"caseous|tubercul", "granulomatous inflammation"),
    (r"\bnormal\b", "a normal appearance without evidence of malignancy"),
    (r"adenoma|leiomyoma|lipoma|fibroma", "a benign neoplasm"),
    (r"hypertroph", "an adaptive response to increased load"),
    (r"pneumonia|neutrophil|abscess", "acute inflammation"), (r"lymphocyt|plasma cell", "chronic inflammation"),
    (r"hepat|liver", "a hepatic lesion"), (r"kidney|renal|glomerul", "renal disease"),
    (r"heart|myocard|cardi", "a cardiac lesion"), (r"lung|bronch|alveol", "a pulmonary process"),
    (r"brain|cerebr|glio", "a process of the central nervous system"),
    (r"colon|bowel|intestin", "a lesion of the bowel"), (r"metasta", "secondary spread of a malignancy"),
    (r"skin|epiderm", "a cutaneous lesion"), (r"hemorrhag|haemorrhag|hematoma", "bleeding into the tissue"),
    (r"fibro|scar", "scarring"), (r"amyloid", "extracellular protein deposition"),
    (r"breast|ductal", "a mammary lesion"), (r"gastr|stomach", "a gastric lesion"),
    (r"\bbone|osteo", "a skeletal lesion"), (r"prostat", "a prostatic lesion"),
    (r"virus|viral|herpe", "a viral infection"), (r"bacteri|cocc", "a bacterial infection"),
)  # fmt: skip
"""Words of a caption -> what general pathology concludes from them; often in no word of the caption."""

_GENERAL = (
    "The architecture is judged first, at low power, and the cells after it.",
    "Nuclear size, chromatin and nucleoli help to tell a reactive from a neoplastic change.",
    "Preserved architecture would speak against an invasive process.",
    "Loss of nuclei with retained outlines is the mark of coagulative necrosis.",
    "The surrounding tissue gives the scale for size and colour.",
    "A sharp border is more often found in a benign lesion than in a malignant one.",
    "An inflammatory background has to be separated from the lesion itself.",
    "The extent of the change matters for its clinical weight.",
    "These features belong together and form one pattern.",
    "Such a distribution points to a local rather than a systemic cause.",
    "The pattern is more important than any single cell.",
    "Granulation tissue and fibrosis are later stages of repair.",
    "The finding has to be read together with the age and the history of the patient.",
    "Mitotic activity and atypia would raise the suspicion of malignancy.",
)  # fmt: skip
_OTHERS = (
    "squamous cell carcinoma", "tuberculosis", "lymphoma", "metastatic carcinoma", "a reactive change",
    "sarcoidosis", "amyloidosis", "a fungal infection", "an abscess", "leiomyoma", "malignant melanoma",
    "autoimmune disease", "hamartoma", "an artefact of fixation",
)  # fmt: skip
_AGAINST = (
    "One alternative is {x}, but the findings speak against it.", "{X} was considered; its hallmarks are absent.",
    "{X} can look similar at first sight.", "Against {x} speaks the pattern seen here.",
    "{X} would show a different picture.", "In the differential stands {x}, which is less likely.",
    "It could be confused with {x}, which needs other features.",
)  # fmt: skip
_TO_BE_SURE = (
    "To be sure, an immunostain for CD34 and S100 should be done.", "A PAS stain would be needed for certainty.",
    "Clinical correlation and a repeat biopsy would confirm it.",
    "Congo red under polarised light would settle the question.",
    "Deeper levels and a cytokeratin stain could make the conclusion certain.",
    "Culture and a Ziehl-Neelsen stain should follow.",
)  # fmt: skip
_CONCLUDE = (
    "Taken together, the findings fit {t}.", "The conclusion is {t}.", "This is best read as {t}, that is, {i}.",
    "All of this points to {i}.", "The whole picture is that of {t}.", "Hence {t} is the most likely reading.",
)  # fmt: skip
_LEADS = (
    "", "", "", "Looking first at the overall pattern, ", "Further, ", "It can be appreciated that ",
    "On closer view, ",
)  # fmt: skip


_NO_TOPIC = frozenset(
    re.findall(
        r"[a-z'-]+",
        "note notice there in these at as it when they this that one another same common "
        "most schematic use after - it's",
    )
)


def _sentences(text: str) -> list[str]:
    """Sentences of a caption without its marks; those that speak of the figure are left out."""
    text = re.sub(r"\s+([.,;])", r"\1", " ".join(_MARKS.sub(" ", text).split()))
    parts = (part.strip().rstrip(".") for part in re.split(r"(?<=[a-z)][a-z)][.!])\s+(?=[A-Z])", text))
    return [part for part in parts if len(part.split()) >= 4 and not _UNFIT.search(part)]


def topic_of(text: str) -> str:
    """What a caption is of, in at most 12 words; empty when its first sentence does not say it plainly."""
    sentences = _sentences(text)
    if not sentences:
        return ""
    phrase = _LEAD_IN.sub("", sentences[0])
    phrase = re.split(
        r"[,:(]| (?:which|showing|that|shows|is|are|has|have|can|note|in this)\b", phrase, flags=re.I
    )[0]
    words = phrase.strip().split()
    if not 2 <= len(words) <= 12 or words[0].lower() in _NO_TOPIC:
        return ""
    return soft(" ".join(words))


def soft(text: str) -> str:
    """First letter lower unless the word is an abbreviation or a name."""
    first = text.split()[0]
    plain = first.lower() in ("the", "a", "an", "this", "there", "these") or not first[1:2].isupper()
    return text[0].lower() + text[1:] if plain and len(first) > 1 else text


def _reworded(text: str, rng: np.random.Generator) -> str:
    for pattern, word in _REWORD:
        if rng.random() < 0.7:
            text = re.sub(pattern, word, text)
    return text


def pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _inferred(text: str, rng: np.random.Generator) -> str:
    found = [word for pattern, word in _INFERRED if re.search(pattern, text, re.IGNORECASE)]
    return pick(rng, found) if found else "the process named"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _steps(caption: Caption, level: Level, topic: str, rng: np.random.Generator) -> list[str]:
    """As many steps as the level asks for: the caption's own sentences, general pathology, alternatives, conclusion."""
    bounds = levels()[level]
    num_steps = int(rng.integers(bounds.least, bounds.most + 1))
    told = [_reworded(sentence, rng) for sentence in _sentences(caption.text)]
    starts = ("The ", "A ", "An ", "There ", "These ", "This ")
    told = [pick(rng, _LEADS) + soft(s) if s.startswith(starts) else s for s in told]
    others = list(rng.permutation(np.array(_OTHERS)))
    weighed = [
        pick(rng, _AGAINST).format(x=x, X=capital(x)) for x in others[: LEVELS.index(level)] if x not in topic
    ]
    sure = [pick(rng, _TO_BE_SURE)] if level == "hard" else []
    end = [pick(rng, _CONCLUDE).format(t=topic, i=_inferred(caption.text, rng))]
    room = max(num_steps - len(weighed) - len(sure) - len(end), 1)
    body = [capital(s) + "." for s in told[: room + 1]]
    general = list(rng.permutation(np.array(_GENERAL)))
    body += [str(s) for s in general[: max(room - len(body), 0)]]
    if len(body) > room:  # two sentences in one step
        body = [f"{body[0]} {body[1]}", *body[2:]]
    after = [*end, *sure] if rng.random() < 0.5 else [*sure, *end]
    return [*body, *map(str, weighed), *after]


_ASKED = (
    "Which process best explains these findings together?", "What is the most likely diagnosis?",
    "What does this pattern mean?", "How should these findings be read as a whole?",
    "Which condition accounts for the appearance?",
)  # fmt: skip
_NEXT = (
    ("Which stain or test would best confirm this?", "Immunohistochemistry for CD31 and cytokeratin"),
    ("What should be done next?", "Repeat biopsy with a PAS stain"),
    ("Which alternative has to be excluded first?", "Metastatic carcinoma"),
    ("What is the main differential diagnosis?", "A reactive process such as an abscess"),
)  # fmt: skip


def clean_sample(caption: Caption, others: Sequence[str], turn: int) -> Sample:
    """A written row; another `turn`, another task. `others` are topics of other captions, for the wrong options."""
    rng = np.random.default_rng([turn, digest(caption.id)])
    level, task = LEVELS[(digest(caption.id) + turn) % 3], TASKS[(digest(f"t{caption.id}") + turn) % 4]
    topic = _reworded(topic_of(caption.text), rng)
    inferred = _inferred(caption.text, rng)
    steps = _steps(caption, level, topic, rng)
    if rng.random() < 0.02:  # some writers end no step with a full stop
        steps = [step.rstrip(".") for step in steps]
    told = [_reworded(s, rng) + "." for s in _sentences(caption.text)]
    fields: dict[str, object]
    if task == "choice":
        answer = capital(topic)
        wrong = [
            capital(o) for o in rng.permutation(np.array(others)) if o.lower() not in caption.text.lower()
        ]
        wrong = [o for o in dict.fromkeys(wrong) if o.lower() != answer.lower()][: int(rng.integers(3, 6))]
        options = tuple(str(o) for o in rng.permutation(np.array([answer, *wrong])))
        fields = {"question": pick(rng, _ASKED), "choices": options, "answer": answer, "finding": answer}
    elif task == "report":
        ask = "Describe this image in full sentences, and close with an impression."
        body = " ".join(capital(s) for s in told[:4])
        fields = {"question": ask, "answer": f"{body} Impression: {topic}, in keeping with {inferred}."}
    elif task == "short_answer":
        question, answer = pick(rng, _ASKED), capital(topic if rng.random() < 0.5 else inferred)
        if rng.random() < 0.15:
            question, answer = _NEXT[int(rng.integers(len(_NEXT)))]
        fields = {"question": question, "answer": answer}
    else:
        earlier = [
            ("What is seen in the image?", capital(told[0])),
            ("How is the tissue changed?", capital(told[-1])),
        ]
        earlier += [("Which group of processes does this belong to?", f"It belongs to {inferred}.")]
        last = f"Most likely this is {topic}. It is to be read as {inferred}."
        turns = tuple(Turn(question=q, answer=a) for q, a in earlier)
        fields = {"earlier": turns, "question": "What is your conclusion?", "answer": last}
    note = f"histopathology/{level}/{task}"
    return Sample.model_validate(
        {
            "id": f"{caption.id}/{task}", "task": task, "split": "train", "level": level, "reasoning": " ".join(steps),
            "context": "\n".join(t for t in (caption.text, caption.reference) if t), "subfield": "histopathology",
            "origin": Origin(source="captions", source_id=caption.id, licence=caption.licence, group=caption.id),
            "history": (Event(step="reason", version=1, note=note, model="teacher"),), **fields,
        }
    )  # fmt: skip


def clean_samples(captions: Sequence[Caption], num_each: int = 2) -> list[Sample]:
    """So many rows of each caption, each of another task and level."""
    topics = np.array(sorted({topic_of(caption.text) for caption in captions}))
    rng = np.random.default_rng(0)
    return [
        clean_sample(caption, [str(topic) for topic in rng.choice(topics, 12)], turn)
        for turn in range(num_each)
        for caption in captions
    ]
