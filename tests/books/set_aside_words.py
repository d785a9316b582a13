"""Prose of the set-aside book: sentences from templates, our own words, nothing taken from a book."""

import random
from dataclasses import dataclass

ORGANS = (
    "colon",
    "lung",
    "breast",
    "stomach",
    "urinary bladder",
    "liver",
    "kidney",
    "thyroid gland",
    "skin",
    "pancreas",
)

_PATIENTS = (
    "adults in the sixth decade",
    "young adults",
    "elderly women",
    "men over fifty",
    "patients on dialysis",
)
_COMPLAINTS = (
    "pain that came on over months",
    "a lump found by chance on imaging",
    "weight loss without other cause",
    "bleeding of uncertain origin",
    "raised laboratory values at a routine visit",
    "fever and night sweats",
)
_CUT = (
    "grey-white and firm",
    "soft, tan and friable",
    "pale with yellow flecks",
    "gelatinous in its centre",
    "rubbery with a whorled pattern",
    "haemorrhagic towards one pole",
)
_ARRANGED = (
    "closely packed glands",
    "broad sheets",
    "anastomosing cords",
    "small nests set in fibrous stroma",
    "single files between collagen bundles",
    "rounded islands with a crisp outline",
)
_NUCLEI = (
    "enlarged and irregular in outline",
    "small, round and evenly spaced",
    "vesicular with a prominent nucleolus",
    "crowded and hyperchromatic",
    "elongated and stratified",
    "indented, with finely granular chromatin",
)
_MARKERS = (
    "low-molecular-weight keratins",
    "p63",
    "CD45",
    "synaptophysin",
    "smooth muscle actin",
    "GATA3",
    "TTF1",
    "CDX2",
    "p16",
)
_MIMICS = (
    "reactive atypia",
    "a metastasis from an unknown primary",
    "radiation change",
    "a low-grade neuroendocrine tumour",
    "healing ulceration",
    "tangential sectioning of normal structures",
)
_GENES = ("KRAS", "TP53", "PIK3CA", "CTNNB1", "BRAF", "APC")

_PLAIN: dict[str, tuple[str, ...]] = {
    "Clinical features": (
        "{Entity} of the {organ} is mostly seen in {patients}, and about {percent}% of them present with {complaint}.",
        "The disease is found in {patients} more often than chance would explain.",
        "Imaging shows a mass of {number} to {number2} cm in roughly {percent}% of cases.",
        "Symptoms such as {complaint} are common but not specific.",
        "A history of previous surgery should be sought, because scar tissue changes the picture.",
        "Up to {percent}% of lesions are discovered while the patient is examined for something else.",
    ),
    "Macroscopic appearance": (
        "The cut surface is {cut}, and the border towards the surrounding {organ} is often indistinct.",
        "Specimens measure between {number} and {number2} cm and weigh little for their size.",
        "After fixation the tissue becomes {cut}, which makes sampling of the margin easier.",
        "At least {number} blocks should be taken, including one from the deepest point and one of the nearest margin.",
        "Photographs with a scale help the later correlation with the slides.",
    ),
    "Histopathology": (
        "At low power the lesion is made up of {arranged}, and the stroma between them is variably oedematous.",
        "The nuclei are {nuclei}, while the cytoplasm ranges from scant to abundant.",
        "Mitotic figures number {number} to {number2} per 2 mm² and may be absent from a small biopsy.",
        "Lymphocytes gather at the edge and, in {percent}% of cases, form follicles with germinal centres.",
        "Necrosis is patchy; where it is extensive, viable cells persist around vessels.",
        "A transition from {arranged} to {arranged2} is typical and should be looked for on every slide.",
        "Deeper levels are worth the wait when the first section shows only {arranged}.",
        "The background may be inflamed, fibrotic or almost normal, so that the change is easily missed.",
    ),
    "Immunophenotype": (
        "The cells express {marker} in nearly all cases and {marker2} in about {percent}%.",
        "Staining for {marker} is strong and diffuse, that for {marker2} weak and focal at best.",
        "Loss of {marker} is unusual and should prompt a search for {mimic}.",
        "The proliferation index lies between {number}% and {percent}%, higher at the growing edge.",
        "Mutations of {gene} have been reported in {percent}% of tumours, with or without alterations of {gene2}.",
    ),
    "Differential diagnosis": (
        "The main alternatives are {mimic} and {mimic2}, both of which lack {arranged}.",
        "In small samples {mimic} cannot always be excluded, and a comment to that effect is better than a guess.",
        "Attention to the nuclei, which are {nuclei} here, settles most questions.",
        "When doubt remains, a panel with {marker} and {marker2} separates the two in {percent}% of cases.",
        "The criteria of Table {table} are meant as a guide and not as a score.",
        "Clinical information is decisive more often than a further stain is.",
    ),
    "Prognosis": (
        "Five-year survival is about {percent}% when the lesion is confined to the {organ}.",
        "Recurrence is reported in {percent}% after {number} to {number2} years.",
        "Stage outweighs grade, and the state of the margin outweighs both in the first two years.",
        "Follow-up by imaging every {number} months is usual, although evidence for the interval is thin.",
    ),
}
HEADS = tuple(_PLAIN)

# {fig} is what is printed for the figures, such as "Fig. 3.2A".
_REFERRING = (
    "The nuclei are {nuclei} and lie at different heights within the epithelium ({fig}).",
    "As {fig} shows, {arranged} may be the only clue in a superficial biopsy.",
    "In most cases {arranged} dominate ({fig}), although the pattern varies from field to field.",
    "{fig} illustrates how closely the lesion can resemble {mimic}.",
    "Compare the appearance of {fig} with that of {mimic}, in which the cells are more cohesive.",
    "Areas with {arranged}, such as those in {fig}, carry no weight for grading.",
    "Staining for {marker} outlines the cells that are hard to see otherwise (see {fig}).",
    "Occasionally the stroma is hyalinized, the vessels are thick-walled and the epithelium is thinned ({fig}); such"
    " foci should not be taken for {mimic}.",
    "A helpful feature is the sharp change from normal to abnormal, best appreciated at low power ({fig}).",
    "The same case stained for {marker} is depicted in {fig}, where {percent}% of the cells are positive.",
    "Degenerative change with smudged chromatin ({fig}) is not evidence of malignancy.",
    "Note in {fig} that the basement membrane is intact beneath {arranged}.",
)

_TITLES = (
    "{Entity} of the {organ}.",
    "{Entity}.",
    "{Entity}, typical appearance.",
    "{Entity} in a resection specimen.",
    "Variant patterns of {entity}.",
    "{Entity} in a woman aged {age} years.",
)
_VIEWS = (
    "Low-power view with {arranged}",
    "Higher magnification of the same field",
    "The nuclei are {nuclei}",
    "Cells in {arranged}",
    "Stroma with scattered lymphocytes and plasma cells",
    "Edge of the lesion with compressed normal tissue",
    "Mitotic figure near the centre of the field",
    "Transition from {arranged} to {arranged2}",
    "Staining for {marker} is confined to the abnormal cells",
    "Chromatin detail; the nuclei are {nuclei}",
    "Deep margin, free of disease by {number} mm",
    "Focal necrosis with loss of nuclear detail",
)
_STAINS = (" (H&E)", " (H&E)", "", "", " (PAS)", " (H&E, \u00d7200)", " (immunohistochemistry)")
_MORE = (
    "The cells are arranged in {arranged} and the nuclei are {nuclei}.",
    "Note the contrast between {arranged} and the uninvolved tissue.",
    "Scattered inflammatory cells are present throughout the field.",
    "This pattern was seen in {percent}% of the sampled area.",
    "There was no staining for {marker}.",
)
_AUTHORS = (
    "Almquist",
    "Bereny",
    "Corvo",
    "Dastur",
    "Ekholm",
    "Farnesi",
    "Gudsen",
    "Hallam",
    "Itoya",
    "Jurek",
    "Kabir",
)
_JOURNALS = ("J Morphol Pathol", "Ann Surg Histol", "Diagn Tissue Rev", "Arch Lab Med Sci")


@dataclass(frozen=True)
class Subject:
    """What a section is about."""

    entity: str
    organ: str
    table: str  # number of the chapter's table


class Writer:
    """Sentences about a subject; draws from its generator, so the same seed writes the same book."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.unused: dict[str, list[str]] = {}

    def _fill(self, template: str, subject: Subject, fig: str = "") -> str:
        rng = self.rng
        number = rng.randint(2, 8)

        def two(words: tuple[str, ...]) -> list[str]:
            return rng.sample(words, 2)

        arranged, markers, mimics, genes = two(_ARRANGED), two(_MARKERS), two(_MIMICS), two(_GENES)
        text = template.format(
            Entity=subject.entity[0].upper() + subject.entity[1:],
            entity=subject.entity,
            organ=subject.organ,
            table=subject.table,
            patients=rng.choice(_PATIENTS),
            complaint=rng.choice(_COMPLAINTS),
            cut=rng.choice(_CUT),
            nuclei=rng.choice(_NUCLEI),
            arranged=arranged[0],
            arranged2=arranged[1],
            marker=markers[0],
            marker2=markers[1],
            mimic=mimics[0],
            mimic2=mimics[1],
            gene=genes[0],
            gene2=genes[1],
            percent=rng.randint(11, 92),
            number=number,
            number2=number + rng.randint(1, 9),
            age=rng.randint(28, 81),
            fig=fig,
        )
        return text[0].upper() + text[1:]

    def paragraph(self, head: str, subject: Subject) -> list[str]:
        """Two to five sentences that belong under the heading; a template comes again when all have been used."""
        said = []
        for _ in range(self.rng.randint(2, 5)):
            left = self.unused.setdefault(head, [])
            if not left:
                left += self.rng.sample(_PLAIN[head], len(_PLAIN[head]))
            said.append(self._fill(left.pop(), subject))
        return said

    def referring(self, subject: Subject, fig: str) -> str:
        """A sentence that names the figures; `fig` as printed."""
        return self._fill(self.rng.choice(_REFERRING), subject, fig)

    def title(self, subject: Subject) -> str:
        return self._fill(self.rng.choice(_TITLES), subject)

    def more(self, subject: Subject) -> str:
        """A further sentence of a caption."""
        return self._fill(self.rng.choice(_MORE), subject)

    def parts(self, subject: Subject, count: int) -> list[str]:
        """`count` different parts of a caption, each one or two sentences."""
        views = self.rng.sample(_VIEWS, count)
        said = [self._fill(view, subject) + self.rng.choice(_STAINS) + "." for view in views]
        return [text + (" " + self.more(subject) if self.rng.random() < 0.2 else "") for text in said]

    def citation(self, number: int) -> str:
        """An entry of a list of literature."""
        rng = self.rng
        names = ", ".join(
            f"{name} {rng.choice('ABCDEGHKM')}" for name in rng.sample(_AUTHORS, rng.randint(2, 4))
        )
        topic = f"{rng.choice(_GENES)} and {rng.choice(_MARKERS)} in lesions with {rng.choice(_ARRANGED)}"
        first = rng.randint(11, 900)
        year, volume = rng.randint(1998, 2023), rng.randint(3, 60)
        pages = f"{first}\u2013{first + rng.randint(3, 19)}"
        return f"{number}. {names}. {topic}. {rng.choice(_JOURNALS)} {year};{volume}:{pages}."
