"""Words for questions without pictures: plain English, terms of pathology, and words that nobody has ever used.

The nano base learns on them to bind an option's letter to its words, to compare and to copy. That skill must not
hang on the words themselves, so a part of each list is held out of training (`is_held_out`), and made-up words have
no end. The lists leave out what questions are worded with, such as answer, kind and number.
"""

import hashlib

import numpy as np

_GENERAL = """
able account acid across action actor address advice age agent air alarm album alley almond amber anchor angle
animal ankle ant apple apron arch area arm army aroma arrow art ash atlas attic autumn award axe baby
back bacon badge bag bakery balance ball bamboo banana band bank bar barge bark barn barrel base basin basket
bath battery bay beach bead beam bean bear beard bed bee beetle belief bell belt bench berry bicycle bill bird
biscuit blade blanket block blood bloom boat body boiler bolt bone book boot border bottle bottom bowl box boy
brain brake branch brass bread breath brick bridge broom brother brush bubble bucket budget building bulb
bullet bus bush business butter button cabin cabinet cable cake calendar camel camera camp canal candle candy
cannon canoe canvas cap capital captain car carbon card cargo carpet carrot cart case castle cat cattle cause
cave ceiling cellar cement centre century cereal chain chair chalk chamber chance change channel chapel
chapter charm chart cheese cherry chess chest chicken chief child chimney chin choice church cinema circus
citizen city clay clerk cliff climate clock cloth cloud clover coach coal coast coat cobweb cocoa coconut
coffee coin collar colony column comb comet comfort company compass concert cook copper coral corn corner
cotton council country couple courage court cousin cow crab cradle craft crane crayon cream creek crew cricket
crop crowd crown crystal cup curtain curve cushion custom dairy dance danger daughter dawn day debt deck deer
degree delay desert desk diary dinner dirt dish distance ditch doctor dog doll dolphin donkey door doubt
dragon drain drawer dream dress drill drink driver drum duck dust duty eagle ear earth east edge effort egg
elbow elephant energy engine error evening event exam exit eye fabric face fact factory fair family fan farm
farmer father fear feast feather fence ferry fever fiddle field fig finger fire fish flag flame flask fleet
flight flock flood floor flour flower flute fly fog folder food foot forest fork fortune fossil fountain fox
frame freedom friend frog frost fruit fuel funnel fur future galaxy game garage garden garlic gate gem ghost
giant gift ginger giraffe girl glass globe glove glue goal goat gold goose grain grape grass gravel gravity
grid group guard guest guide guitar gulf habit hail hair hall hammer hand handle harbour harvest hat hawk hay
hazel head heart heat hedge heel height helmet hen herb hero hill hinge history hole holiday home honey hood
hook horn horse hospital hotel hour house humour hunger hunter husband ice icon idea igloo inch industry ink
insect island item ivory ivy jacket jam jar jaw jelly jet jewel job joke journey judge jug juice jungle jury
kettle key kidney king kitchen kite knee knife knight knot label lace ladder lady lake lamb lamp land
lane language lantern lark laugh lawn lawyer layer lead leaf leather lecture leg lemon lens leopard lesson
letter lever library lid light lily limb lime line lion lip list liver lizard load lobster lock log lunch lung
machine magic magnet maid mail mango manner map maple marble march market mask mast match material matter
meadow meal measure meat medal melon member memory merchant metal middle mile milk mill mind minute mirror
mist mixture model moment money monkey month mood morning moss mother motion motor mountain mouse mouth movie
mud mule muscle museum music mustard nail name napkin nation nature neck needle neighbour nephew nerve nest
net news night noise noon north nose note notice novel nurse nut oak oar oasis oat ocean office oil
olive onion opera option orbit orchard order organ otter oven owl owner ox oxygen oyster package paddle page
pain paint palace palm pan panda paper parade parcel parent park parrot part partner party passage past paste
patch path pattern pause peace peach peanut pear pearl pebble pedal pen pencil people pepper person petal
phone photo piano pickle picnic piece pig pigeon pillow pilot pin pipe pirate pitch plain plan planet plant
plastic plate play plough plum pocket poem poet point pole police pond pony pool port poster pot potato powder
power present price pride prince prison prize problem profit proof puddle pump pumpkin pupil puppet purse
puzzle pyramid quarter queen question quilt quiz rabbit race rack radio raft rail rain rake ramp range rate
raven reason record reed region relief report rest result reward rhythm rice rider rifle river road robin
robot rock rocket roof room root rope rose route rubber ruby rug ruler rumour sack saddle safety sail sailor
salad salt sample sand sauce scale scarf scene school science scissors screen screw sea seal season seat
second secret seed sense series servant shade shadow shark sheep sheet shelf shell shelter shepherd shield
ship shirt shoe shop shore shoulder shovel shower side signal silence silk silver sister skill skin skirt
skull sky sleep sleeve slope smile smoke snail snake snow soap sock soda soil soldier song sound soup south
space spade spark speech speed spider spike spinach spirit spoon sport spot spring square squirrel stable
stage stair stamp star station statue steam steel stem step stitch stomach stone storm story stove stranger
straw stream street string student sugar suit summer sun supper surface swamp swan sweater switch sword symbol
syrup system table tailor talent tank tape target taste tax tea teacher team tear temper temple tennis tent
term test theatre theory thing thread throat throne thumb thunder ticket tide tiger timber time tin tip title
toast toe tomato tongue tool tooth top torch tower town toy track trade traffic train trap tray treasure tree
tribe trick trip trouble trousers truck trumpet trunk truth tub tulip tunnel turkey turnip turtle twig uncle
union unit valley value van vase vegetable veil vein vessel victory view village vinegar violin visitor voice
volcano volume voyage wage wagon waist wall walnut war washer water wave wax way wealth weapon weather web
week weight west whale wheat wheel whip whistle wife wind window wine wing winter wire wish wolf wood wool
word work worker world worm wound wrist writer yard year zebra zinc zoo
"""
_PATHOLOGY = """
abscess acinus actinic adenocarcinoma adenoma adipose adrenal amyloid anaplastic apoptosis artery atrophy
atypia autolysis axilla basement benign biopsy bladder bone brain breast bronchus calcification capillary
capsule carcinoid carcinoma cartilage cecum cellularity cervix chondroma chorion chromatin chronic cirrhosis
collagen colon columnar congestion cornea cortex crypt cyst cytoplasm cytology debris dermis desmoplasia
diagnosis differentiation duct ductal duodenum dysplasia ectopic edema embolus endocervix endometrium
endothelium eosinophil epidermis epithelium erosion erythrocyte exudate fascia fibrin fibroma fibrosis fistula
follicle ganglion gastric giant gland glandular glioma glomerulus goblet granular granulation granuloma
haemorrhage hamartoma hepatocyte hilum histiocyte hyaline hyperplasia hypertrophy ileum immune infarct
infiltrate inflammation invasive ischaemia jejunum karyorrhexis keratin kidney koilocyte lamina larynx
leiomyoma lesion leukaemia ligament lipoma lobule lumen lung lymph lymphocyte lymphoma macrophage malignant
margin marrow mast mediastinum medulla melanin melanoma meninges mesothelium metaplasia metastasis mitosis
mucin mucosa muscle myeloma myocyte myxoid naevus necrosis neoplasm nephron nerve neuron neutrophil nodule
nucleolus nucleus oedema oesophagus oncocyte osteoid ovary pancreas papillary papilloma parakeratosis
parathyroid parenchyma pearl pedunculated peritoneum phagocyte pharynx pigment pituitary placenta plaque
plasma platelet pleomorphism pleura polygonal polyp prostate pseudostratified pyknosis rectum reticulin
sarcoma schwannoma sebaceous seminoma septum serous sinus skin smear spindle spleen squamous stain steatosis
stomach stratified stroma submucosa synovium tendon teratoma testis thrombus thymus thyroid tissue tonsil
trabecula trachea tubule tumour ulcer ureter urothelial uterus vacuole vascular vein venule villus viscera
vulva
"""
_ONSETS = (
    *("b", "br", "d", "dr", "f", "fl", "g", "gl", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "r"),
    *("s", "sk", "st", "t", "tr", "v", "w", "y", "z"),
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "oo")
_CODAS = ("", "", "", "k", "l", "m", "n", "r", "s", "t")
_READ_ANYWAY = frozenset(_PATHOLOGY.split()) - frozenset(_GENERAL.split()) | {
    *("answer", "blue", "caption", "give", "kind", "level", "many", "number", "ring", "speckled", "they"),
    *("triangle", "white", "with", "write"),
}
"""Terms, and words of questions and answers, that chance could also make up: training reads them, so no test may."""


def is_held_out(word: str) -> bool:
    """Whether a word is kept for test questions: a tenth of all others, by their hash, made-up words included."""
    return word not in _READ_ANYWAY and hashlib.sha256(word.encode()).digest()[0] < 26


def _split(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words = sorted(set(text.split()))
    return tuple(w for w in words if not is_held_out(w)), tuple(w for w in words if is_held_out(w))


GENERAL, HELD_OUT_GENERAL = _split(_GENERAL)
PATHOLOGY = tuple(sorted(set(_PATHOLOGY.split()) - set(HELD_OUT_GENERAL)))
"""Terms as words only: no picture and no fact goes with them. None is held out, and none is a held-out word."""


_TRAINING = GENERAL + PATHOLOGY


def made_up_word(rng: np.random.Generator, *, held_out: bool) -> str:
    """Two or three syllables that mean nothing; those of training and of test never meet."""
    while True:
        word = "".join(
            _ONSETS[int(rng.integers(len(_ONSETS)))]
            + _VOWELS[int(rng.integers(len(_VOWELS)))]
            + _CODAS[int(rng.integers(len(_CODAS)))]
            for _ in range(int(rng.integers(2, 4)))
        )
        if is_held_out(word) == held_out:
            return word


def blended_word(rng: np.random.Generator, *, held_out: bool) -> str:
    """The head of one training word and the tail of another: English to look at, and no word, or hardly ever.

    Pieces of words that stand in few plain ones are met in many of these, so that they too are learnt to be copied.
    """
    while True:
        head, tail = (_TRAINING[int(rng.integers(len(_TRAINING)))] for _ in range(2))
        word = head[: int(rng.integers(1, len(head) + 1))] + tail[int(rng.integers(len(tail))) :]
        if 3 <= len(word) <= 12 and is_held_out(word) == held_out:
            return word


def pick_words(rng: np.random.Generator, count: int, *, held_out: bool) -> list[str]:
    """`count` different words: in training two fifths plain, a fifth terms, the rest made up; else half and half."""
    words: list[str] = []
    while len(words) < count:
        chance = rng.random()
        if chance < (0.5 if held_out else 0.4):
            word = made_up_word(rng, held_out=held_out)
        elif held_out:
            word = HELD_OUT_GENERAL[int(rng.integers(len(HELD_OUT_GENERAL)))]
        else:
            pool = PATHOLOGY if chance < 0.6 else GENERAL
            word = pool[int(rng.integers(len(pool)))]
        if word not in words:
            words.append(word)
    return words
