"""Diagnoses, markers, stains, organs, organisms and numbers in a text, and whether another text supports them.

The lists are ours, from general pathology; none is complete. Words for a process that any tissue can show (necrosis,
fibrosis, inflammation, neoplasm) are left out on purpose: they follow from other findings.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MARKERS = (
    r"CD ?-?\d+[a-z]?\b|(?:CK|cytokeratins?|keratins?) ?-?\d+(?:/\d+)?\b|Ki-?67|HER-?2|\bp(?:16|21|27|40|53|"
    r"57|63|73)\b|"
    r"S-?100\b|TTF-?1|HMB-?45|PAX-?[258]|SOX-?\d+|BCL-?[26]|cyclin D1|GATA-?3|WT-?1\b|MUM-?1|CDX-?2|SATB2|"
    r"INI-?1|MLH1|MSH[26]|PMS2|"
    r"BRAF|KRAS|EGFR|\bALK\b|ROS1|PD-?L1|MYCN?\b|\bERG\b|STAT6|MDM2|DOG-?1|c-?kit|AE1/AE3|CAM ?5\.2|34betaE12|"
    r"D2-?40|\bTdT\b|\bDBA\.?44|"
    r"\b(?:ER|PR|AR|EMA|CEA|PSA|PSAP|AFP|HCG|NSE|GFAP|SMA|MPO|PLAP|GCDFP-?15|AMACR|TRAP|IDH-?1|ATRX|"
    r"OCT-?[34])\b|"
    r"(?:o?estrogen|progesterone|androgen) receptors?|synaptophysin|chromogranin|desmin|myogenin|MyoD1|"
    r"vimentin|calretinin|inhibin|"
    r"calponin|caldesmon|actin\b|thyroglobulin|calcitonin|mammaglobin|napsin|uroplakin|arginase|glypican|"
    r"mesothelin|podoplanin|"
    r"melan-?A|tyrosinase|E-cadherin|beta-catenin|(?<!alpha )cytokeratin|neurofilament|nestin|synuclein|"
    r"tryptase|lysozyme|factor VIII"
)
STAINS = (
    r"congo red|\bPAS\b|periodic acid|ziehl|acid[- ]fast|\bAFB\b|grocott|\bGMS\b|methenamine|trichrome|"
    r"prussian blue|\bperls\b|mucicarmine|"
    r"alcian|reticulin|giemsa|\bgram(?= stain|-(?:positive|negative)| positive| negative)|von kossa|oil red|"
    r"sudan|papanicolaou|toluidine|"
    r"warthin-starry|luxol|bielschowsky|silver stain|van gieson|fontana|wright('s)? stain|india ink|verhoeff|"
    r"crystal violet|masson\b|"
    r"feulgen|thioflavin|cresyl violet|nissl|orcein|jones\b|diff-quik|may-gr.nwald|immunofluorescence"
)
ORGANISMS = (
    r"aspergill\w+|helicobacter|h\. pylori|candida\w*|cytomegalovirus|\bCMV\b|mycobacteri\w+|"
    r"tubercle bacill\w+|giardia\w*|cryptococc\w+|"
    r"toxoplasm\w+|pneumocystis|herpes\w*|\bHSV\b|entamoeba|am(?:o)?eb\w+|histoplasm\w+|papillomavirus|"
    r"\bHPV\b|staphylococc\w+|actinomyc\w+|"
    r"streptococc\w+|escherichia|e\. coli|klebsiella|pseudomonas|salmonella|shigella|clostridi\w+|treponem\w+|"
    r"borrelia|chlamydi\w+|"
    r"trichomon\w+|schistosom\w+|leishman\w+|plasmodi\w+|trypanosom\w+|strongyloid\w+|echinococc\w+|"
    r"t(?:a)?enia|cysticerc\w+|trichinell\w+|"
    r"epstein-barr|\bEBV\b|\bHIV\b|mucor\w*|rhizop\w+|blastomyc\w+|coccidioid\w+|nocardia|legionella|"
    r"cryptosporidi\w+|parvovirus|adenovirus|"
    r"polyomavirus|\bJC virus|\bBK virus|measles|rabies|influenza|coronavirus|listeria|neisseria|gonococc\w+|"
    r"campylobacter|enterobi\w+|ascari\w+"
)
_DIAGNOSES = (
    r"[a-z-]*(?:omas?|omata|itis|itides|os[ie]s|a?emias?|pathy|pathies)\b|gout\b|leprosy|syphilis|pneumonia|"
    r"abscess\w*|lupus|pemphig\w+|"
    r"pemphigoid|lichen planus|psorias\w+|eczema|carcinoids?|melanocytic n(?:a)?ev\w+|emphysema|asthma|"
    r"infarct\w*|embol\w+|aneurysm\w*|rickets|"
    r"osteomalacia|polyposis|intussusception|volvulus|diverticul\w+|rejection|eclampsia|hydatidiform|"
    r"dysgerminomas?|mycosis fungoides|"
    r"hydatid|histiocytosis x|measles|sprue|c(?:o)?eliac|cystic fibrosis|sickle|thalass\w+|hemophilia|"
    r"scleroderma|polyarteritis|malaria|"
    r"(?:whipple|crohn|barrett|hodgkin|paget|kaposi|wilms|warthin|hashimoto|graves|goodpasture|wegener|"
    r"alzheimer|parkinson|huntington|"
    r"burkitt|ewing|krukenberg|brenner|leydig|sertoli|hirschsprung|cushing|addison|conn|gaucher|niemann|tay|"
    r"fabry|wilson|sj.gren|reiter|"
    r"marfan|down|turner|klinefelter|bowen|merkel|langerhans cell|takayasu|kawasaki|buerger|raynaud|behcet|"
    r"still|meniere|sezary|"
    r"von recklinghausen|von hippel|peutz|gardner|lynch|zollinger|meckel|creutzfeldt|pick)(?:'?s)?(?= |-|$|\W)"
    r"(?= (?:disease|syndrome|lymphom\w+|sarcom\w+|tumou?r\w*|thyroid\w+|o?esophag\w+|cell|histiocyt\w+|"
    r"granulomat\w+|body|bodies|carcinom\w+"
    r"|diverticul\w+|mucosa|metaplas\w+|chorea)| nephroblast| nodul|[.,;]|$)|"
    r"(?:squamous|basal|small|large|giant|signet[- ]ring|clear|spindle|mast|germ|hairy|oat|"
    r"plasma) cell (?=carcinom|lymphom|sarcom|tumou?r|"
    r"leuk|arteritis)|(?:papillary|follicular|medullary|urothelial|transitional cell|ductal|lobular|"
    r"hepatocellular|serous|mucinous|"
    r"endometrioid|adenoid cystic|mucoepidermoid|renal cell) (?=carcinom|adenocarcinom)|\b(?:SCC|BCC|HCC|RCC|"
    r"DCIS|LCIS|AML|CML|CLL|GIST)\b"
)
_NO_DIAGNOSIS = re.compile(
    r"stroma|coma|soma|aroma|chroma|loma|diploma|.*(?:necros[ie]s|nosis|noses|mitos[ie]s|meiosis|apoptosis|"
    r"keratosis|cytosis|stenos[ie]s)"
    r"|(?:peri|myelo|arterio|glomerulo|hyalino|neuro|phlebo)?(?:fibros[ie]s|scleros[ie]s)|acanthosis|"
    r"spongiosis|hyalinosis|anastomos[ie]s"
    r"|osmosis|isch?a?emia|hypera?emia|hypoxa?emia|cyanosis|symbiosis|thrombos[ie]s|acidosis|alkalosis|"
    r"kyphosis|doses?|roses?|noses?"
    r"|those|hypothes[ie]s|purposes|loses|close|histopathy|cytopathy|ptosis|lordosis|scoliosis|karyorrhexis|"
    r"exposes|pathos",
    re.IGNORECASE,
)

ORGANS: Mapping[str, tuple[str, str]] = {
    "pancreas": (r"pancrea\w+", r"islet"),
    "spleen": (r"spleens?\b|splenic", r"splen|red pulp|white pulp"),
    "thyroid": (r"(?<!para)thyroid", r"thyro|colloid|follicular|graves|hashimoto"),
    "parathyroid": (r"parathyroid", r"parathy"),
    "adrenal gland": (r"adrenal", r"adren|pheochromocyt|zona |suprarenal"),
    "pituitary": (r"pituitar\w+|hypophys\w+", r"pituit|hypophys|sella"),
    "urinary bladder": (
        r"urinary bladder|(?<!gall)(?<!gall )\bbladder",
        r"bladder|urothel|transitional|vesic|cystitis",
    ),
    "gallbladder": (r"gall ?bladder", r"gall|cholecyst|biliar"),
    "prostate": (r"prostat\w+", r"prostat|gleason"),
    "tongue": (r"tongue|lingual", r"tongue|lingu|gloss|oral"),
    "larynx": (r"laryn\w+", r"laryn|vocal|glott"),
    "uterus": (
        r"uter(?:us|ine)|endometri(?:um|al)|myometri\w+",
        r"uter|metri|cervi|leiomyoma|decidu|hysterect|placent|pregnan",
    ),
    "cervix": (r"\bcervix", r"cervi|pap\b|hpv|koilocyt"),
    "ovary": (r"ovar(?:y|ies|ian)", r"ovar|adnex|follic|oocyt|krukenberg"),
    "placenta": (r"placent\w+", r"placent|chorion|villi|trophoblast|umbilic|mole"),
    "oesophagus": (r"o?esophag\w+", r"esophag|barrett"),
    "stomach": (r"stomach|gastric\b", r"stomach|gastr|pylor|linitis"),
    "small intestine": (
        r"duoden\w+|jejun\w+|\bile(?:um|al)\b",
        r"duoden|jejun|ileum|ileal|intestin|bowel|celiac|sprue|crohn|villi",
    ),
    "large intestine": (
        r"colon(?:ic)?\b|rect(?:um|al)\b|colorectal|caecum|cecum",
        r"colo|rect|bowel|intestin|cecum|sigmoid|polyp|crypt",
    ),
    "bowel": (
        r"\bbowel|intestin\w+",
        r"bowel|intestin|colo|ile|jejun|duoden|rect|cecum|sigmoid|append|enter|crohn|celiac|bacteri",
    ),
    "appendix": (r"\bappendix|appendiceal", r"append"),
    "liver": (r"\bliver|hepatic", r"liver|hepat|cirrho|portal|sinusoid|bile|biliar|kupffer|cholang"),
    "kidney": (r"kidneys?|renal\b", r"kidney|renal|glomerul|neph|tubul|wilms|mesangi|pyelo"),
    "ureter": (r"ureter\w*", r"ureter|hydroneph"),
    "lung": (r"\blungs?\b|pulmon\w+", r"lung|pulmon|alveol|bronch|pleur|pneumo|airway|hilar|lobe|respir"),
    "heart": (
        r"\bhearts?\b|cardiac|myocard\w+",
        r"heart|card|valv|ventric|atri|coronar|aort|mitral|tricusp|septal",
    ),
    "brain": (
        r"\bbrains?\b|cerebrum|central nervous system",
        r"brain|cereb|neur|glio|glia|mening|astro|spinal|cort|medull|hippocamp|nigra|pons|nerv|dura|"
        r"white matter|demyelin|ventric|crani|myel",
    ),
    "cerebellum": (r"cerebell\w+", r"cerebell|purkinje|medulloblast|tonsil"),
    "testis": (r"testis|testes|testicular", r"test[ie]|seminom|leydig|sertoli|sperm"),
    "breast": (r"\bbreasts?\b|mammary", r"breast|mammar|ductal|lobular|nipple|fibroaden|phyllod"),
    "skin": (r"\bskin\b|cutaneous", r"skin|cutan|derm|nev|melano|kerat|hair|papul|wart|basal cell"),
    "thymus": (r"\bthymus|thymic", r"thym|hassall"),
    "lymph node": (r"lymph nodes?", r"node|nodal|lymph"),
    "bone marrow": (r"bone marrow", r"marrow|myelo|leuk|hematopo|megakaryo"),
    "salivary gland": (r"salivary|parotid|submandibular gland", r"saliv|parot|submandib|warthin"),
    "tonsil": (r"\btonsils?\b", r"tonsil"),
    "retina": (r"\bretina\w*", r"retin|fundus|macul|eye|ocul"),
    "cartilage": (r"\bcartilage", r"cartil|chondr|meniscus"),
}
"""Organ -> (words that name it, beginnings of words that imply it; American spelling)."""

_SYNONYMS = (
    ("carcinom", "cancer", "malignan", "scc", "bcc", "hcc", "rcc", "dcis", "lcis"),
    ("squamous cell", "scc", "squamous", "epidermoid"), ("basal cell", "bcc"),
    ("hepatocellular", "hcc", "hepatoma"), ("renal cell", "rcc"), ("infarct", "mi", "ischemic necrosis"),
    ("leiomyom", "fibroid", "myoma"), ("wilms", "nephroblastom"),
    ("leukem", "aml", "cml", "cll", "leukemic", "blast"), ("atheroscler", "atherom", "plaque"),
    ("melanom", "melanocyt", "melanin"), ("lymphom", "hodgkin", "burkitt", "lymphoproliferat"),
    ("tubercul", "tb", "mycobacter", "acid fast", "caseous", "caseat"), ("urothelial", "transitional"),
    ("transitional cell", "urothelial"), ("cytomegalovirus", "cmv"), ("papillomavirus", "hpv", "koilocyt"),
    ("hpv", "papillomavirus", "koilocyt"), ("herpes", "hsv"), ("hsv", "herpes"), ("cmv", "cytomegalovirus"),
    ("her2", "erbb2", "her2neu"), ("er", "estrogen receptor"), ("pr", "progesterone receptor"),
    ("estrogen receptor", "er"), ("progesterone receptor", "pr"), ("mycobacter", "tubercul", "tb", "acid fast"),
    ("goodpasture", "anti gbm"), ("embol", "thromb"), ("pneumonia", "pneumonitis", "hepatization"),
    ("celiac", "sprue"), ("sprue", "celiac"), ("ebv", "epstein barr"), ("cardiomyopath", "myocardial disease"),
    ("gram", "gram"), ("cd117", "ckit"), ("ckit", "cd117"), ("abscess", "suppurat", "pus"),
)  # fmt: skip
"""Key of an entity, then what says the same; American spelling, no hyphens."""

_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        start=1,
    )
}
_SPELLING = (
    (r"ae", "e"), (r"oe", "e"), (r"our\b", "or"), (r"our(?=s\b)", "or"), (r"isation", "ization"),
    (r"fibre", "fiber"),
)  # fmt: skip
_PATTERNS = {
    "marker": re.compile(rf"(?<![A-Za-z0-9])(?:{MARKERS})", re.IGNORECASE),
    "stain": re.compile(rf"(?<![A-Za-z])(?:{STAINS})", re.IGNORECASE),
    "organism": re.compile(rf"(?<![A-Za-z])(?:{ORGANISMS})", re.IGNORECASE),
    "diagnosis": re.compile(rf"(?<![A-Za-z-])(?:{_DIAGNOSES})(?![a-z])", re.IGNORECASE),
    "number": re.compile(r"(?<![\w.,/-])\d+(?:[.,]\d+)?(?![.,]?\d)(?=[a-z\u00b5\u03bc]{1,3}\b|\W|$)"),
}
_ORGAN_PATTERNS = {
    name: re.compile(rf"(?<![A-Za-z])(?:{said})", re.IGNORECASE) for name, (said, _) in ORGANS.items()
}
_SHORT_MARKER = re.compile(r"ER|PR|AR|ALK|MYC|EMA|CEA|ERG|SMA|PSA|AFP|TRAP|NSE|MPO|PAS|GMS|AFB|HIV")
"""Abbreviations that are a marker in capitals only."""


@dataclass(frozen=True)
class Entity:
    """One mention; `start` is its first character."""

    kind: str
    words: str
    start: int


def plain(text: str) -> str:
    """Lower case, American spelling, hyphens as spaces, no apostrophes: what two spellings of a term share."""
    text = re.sub(r"[-\u2010-\u2015/]", " ", text.casefold()).replace("'", "").replace("\u2019", "")
    for pattern, spelling in _SPELLING:
        text = re.sub(pattern, spelling, text)
    return " ".join(text.split())


def entities(text: str) -> Iterator[Entity]:
    """Every mention, kind by kind."""
    taken: list[tuple[int, int]] = []
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            words = match[0].strip()
            inside = any(start <= match.start() < end for start, end in taken)
            if inside or (kind == "diagnosis" and _NO_DIAGNOSIS.fullmatch(words)):
                continue
            if _SHORT_MARKER.fullmatch(words.upper()) and not words.isupper():
                continue
            taken.append(match.span())
            yield Entity(kind, words, match.start())
    for name, pattern in _ORGAN_PATTERNS.items():
        yield from (Entity(f"organ {name}", match[0], match.start()) for match in pattern.finditer(text))


class Support:
    """What a text supports: it names the entity, in whatever spelling, or something that implies it."""

    def __init__(self, text: str) -> None:
        self._text = plain(text)
        self._tight = re.sub(r"[^a-z0-9]", "", self._text)
        said = re.findall(r"\d+(?:[.,]\d+)?", text)
        numbers = {float(number.replace(",", ".")) for number in said}
        numbers |= {
            float(_NUMBER_WORDS[word]) for word in re.findall(r"[a-z]+", self._text) if word in _NUMBER_WORDS
        }
        # The same length in another unit, the same share in per cent.
        self._numbers = {
            round(number * factor, 6) for number in numbers for factor in (1, 10, 0.1, 100, 0.01)
        }

    def holds(self, entity: Entity) -> bool:
        if entity.kind == "number":
            return round(float(entity.words.replace(",", ".")), 6) in self._numbers
        if entity.kind.startswith("organ "):
            _, implied = ORGANS[entity.kind.removeprefix("organ ")]
            return re.search(rf"(?:{implied})|{re.escape(plain(entity.words))}", self._text) is not None
        key = _key(entity)
        if self._says(key) or (entity.kind == "diagnosis" and self._is_adjective(plain(entity.words))):
            return True
        return any(
            self._says(other) for first, *others in _SYNONYMS if key.startswith(first) for other in others
        )

    def _says(self, key: str) -> bool:
        if len(key) <= 3:
            return re.search(rf"\b{re.escape(key)}\b", self._text) is not None
        tight = re.sub(r"[^a-z0-9]", "", key)
        end = r"(?!\d)" if tight[-1].isdigit() else ""
        return re.search(re.escape(tight) + end, self._tight) is not None

    def _is_adjective(self, word: str) -> bool:
        """Cirrhotic for cirrhosis, an inflamed pleura for pleuritis."""
        if word.endswith(("osis", "oses")):
            return re.search(rf"\b{re.escape(word[:-4])}(?:ot|ous|oid|\b)", self._text) is not None
        if word.endswith("itis") and len(word) > 7:
            inflamed = re.search(
                r"inflam|neutrophil|lymphocyt|suppurat|infiltrat|exudat|plasma cell", self._text
            )
            return inflamed is not None and word[:-4] in self._text
        return False


def _key(entity: Entity) -> str:
    """The part of a term that its plural and its adjective share."""
    word = plain(entity.words)
    if entity.kind == "diagnosis":
        return re.sub(
            r"(?<=om)(?:as?|ata)$|(?<=it)(?:is|ides)$|(?<=os)[ie]s$|(?<=em)ias?$|(?<=path)(?:y|ies)$|"
            r"(?<=[a-z]{4})s$",
            "",
            word,
        )
    if entity.kind == "organism":
        return re.sub(r"(?<=[a-z]{5})(?:us|a|um|ia|is|osis|es|i)$", "", word)
    return word


_WEIGHED = re.compile(
    r"\b(?:would|could|might|may|can|should|alternativ\w*|differential|consider\w*|exclud\w*|rul(?:e|es|ed|ing) out|"
    r"unlike|unlikely|less likely|rather|against|versus|vs|confus\w+|mimic\w*|similar|"
    r"resembl\w*|simulat\w*|distinguish\w*|"
    r"distinct from|differ\w*|needs?|needed|require\w*|recommend\w*|confirm\w*|"
    r"if|whether|typical\w*|characteristic\w*|"
    r"classic\w*|hallmarks?|mark of|often|usually|commonly|sometimes|expected|instead|other than|"
    r"compared|contrast|though|"
    r"although|in general|suspicio\w+|next step|to be sure|"
    r"no|not|nor|neither|never|none|without|absen\w+|negative|missing|"
    r"lacks?|lacking|fails?|free of)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:no|not|nor|neither|without|absen\w+|negative for|lacks?|free of|rather than|unlike|exclud\w+|versus|"
    r"against)\b",
    re.IGNORECASE,
)


def is_weighed(sentence: str) -> bool:
    """Whether a sentence speaks of what might be, is usual or is not, and so claims nothing of the image."""
    return _WEIGHED.search(sentence) is not None


def unsupported(sentence: str, support: Support, allowed: Sequence[str] = ()) -> Entity | None:
    """The first entity that is neither supported, nor denied within its clause, nor of an allowed kind."""
    for entity in entities(sentence):
        clause = re.split(r"[,;:]|\bbut\b", sentence[: entity.start])[-1]
        if entity.kind not in allowed and not _DENIED.search(clause) and not support.holds(entity):
            return entity
    return None
