"""What the sample's speakers can say: phonemes, words and sentences.

Formants are rounded from Peterson and Barney (1952) for an adult male voice; each speaker scales them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phoneme:
    """How a sound is made.

    Attributes:
        formants: F1, F2, F3 in hertz.
        seconds: how long it lasts at a speaking rate of 1.
        voicing: strength of the glottal source, 0 to 1.
        noise: strength of frication, 0 to 1.
        noise_hz: where the frication's energy lies.
    """

    formants: tuple[float, float, float]
    seconds: float
    voicing: float = 1.0
    noise: float = 0.0
    noise_hz: float = 4000.0


PHONEMES: dict[str, Phoneme] = {
    "iy": Phoneme((270, 2290, 3010), 0.11),
    "ih": Phoneme((390, 1990, 2550), 0.08),
    "eh": Phoneme((530, 1840, 2480), 0.09),
    "ae": Phoneme((660, 1720, 2410), 0.12),
    "aa": Phoneme((730, 1090, 2440), 0.12),
    "ao": Phoneme((570, 840, 2410), 0.12),
    "uh": Phoneme((440, 1020, 2240), 0.08),
    "uw": Phoneme((300, 870, 2240), 0.11),
    "ah": Phoneme((640, 1190, 2390), 0.08),
    "er": Phoneme((490, 1350, 1690), 0.11),
    "m": Phoneme((250, 1000, 2200), 0.07, voicing=0.5),
    "n": Phoneme((250, 1500, 2400), 0.06, voicing=0.5),
    "l": Phoneme((360, 1100, 2600), 0.06, voicing=0.8),
    "r": Phoneme((400, 1200, 1600), 0.06, voicing=0.8),
    "w": Phoneme((300, 700, 2200), 0.06, voicing=0.8),
    "y": Phoneme((280, 2200, 2900), 0.05, voicing=0.8),
    "v": Phoneme((300, 1200, 2300), 0.06, voicing=0.5, noise=0.15, noise_hz=5000),
    "z": Phoneme((300, 1600, 2500), 0.08, voicing=0.4, noise=0.4, noise_hz=5500),
    "dh": Phoneme((300, 1400, 2500), 0.04, voicing=0.6, noise=0.1, noise_hz=5000),
    "f": Phoneme((400, 1200, 2300), 0.09, voicing=0.0, noise=0.25, noise_hz=5000),
    "s": Phoneme((400, 1600, 2500), 0.10, voicing=0.0, noise=0.6, noise_hz=5500),
    "th": Phoneme((400, 1400, 2500), 0.08, voicing=0.0, noise=0.2, noise_hz=6000),
    "h": Phoneme((500, 1500, 2500), 0.05, voicing=0.1, noise=0.25, noise_hz=1800),
    "p": Phoneme((400, 1000, 2300), 0.07, voicing=0.0, noise=0.15, noise_hz=1200),
    "t": Phoneme((400, 1700, 2600), 0.06, voicing=0.0, noise=0.35, noise_hz=4500),
    "k": Phoneme((350, 1900, 2400), 0.07, voicing=0.0, noise=0.3, noise_hz=2200),
    "b": Phoneme((250, 1000, 2300), 0.05, voicing=0.5),
    "d": Phoneme((250, 1700, 2600), 0.05, voicing=0.5, noise=0.1, noise_hz=4500),
    "g": Phoneme((250, 1900, 2400), 0.05, voicing=0.5, noise=0.1, noise_hz=2200),
    "_": Phoneme((500, 1500, 2500), 0.16, voicing=0.0),
}

WORDS: dict[str, str] = {
    "a": "ah",
    "afraid": "ah f r eh ih d",
    "again": "ah g eh n",
    "alone": "ah l ao uh n",
    "am": "ae m",
    "and": "ae n d",
    "are": "aa r",
    "at": "ae t",
    "be": "b iy",
    "believe": "b ih l iy v",
    "book": "b uh k",
    "came": "k eh ih m",
    "cannot": "k ae n aa t",
    "care": "k eh r",
    "course": "k ao r s",
    "cry": "k r aa ih",
    "danger": "d eh ih n d er",
    "day": "d eh ih",
    "dirty": "d er t iy",
    "did": "d ih d",
    "do": "d uw",
    "door": "d ao r",
    "expect": "eh k s p eh k t",
    "food": "f uw d",
    "friends": "f r eh n d z",
    "good": "g uh d",
    "great": "g r eh ih t",
    "hate": "h eh ih t",
    "he": "h iy",
    "help": "h eh l p",
    "here": "h iy r",
    "him": "h ih m",
    "home": "h ao uh m",
    "house": "h aa uh s",
    "how": "h aa uh",
    "i": "aa ih",
    "in": "ih n",
    "is": "ih z",
    "it": "ih t",
    "late": "l eh ih t",
    "like": "l aa ih k",
    "love": "l ah v",
    "me": "m iy",
    "miss": "m ih s",
    "my": "m aa ih",
    "never": "n eh v er",
    "no": "n ao uh",
    "nobody": "n ao uh b aa d iy",
    "not": "n aa t",
    "now": "n aa uh",
    "of": "ah v",
    "on": "aa n",
    "out": "aa uh t",
    "people": "p iy p ah l",
    "please": "p l iy z",
    "really": "r iy l iy",
    "said": "s eh d",
    "see": "s iy",
    "smell": "s m eh l",
    "so": "s ao uh",
    "someone": "s ah m w ah n",
    "stop": "s t aa p",
    "table": "t eh ih b ah l",
    "take": "t eh ih k",
    "that": "dh ae t",
    "the": "dh ah",
    "there": "dh eh r",
    "they": "dh eh ih",
    "this": "dh ih s",
    "train": "t r eh ih n",
    "to": "t uw",
    "today": "t uw d eh ih",
    "typical": "t ih p ih k ah l",
    "was": "w ah z",
    "we": "w iy",
    "what": "w ah t",
    "will": "w ih l",
    "with": "w ih th",
    "wonderful": "w ah n d er f ah l",
    "you": "y uw",
}

CARRIERS: tuple[str, ...] = (
    "the book is on the table",
    "they said it will be late",
    "he came home on the train",
    "we will see what they do",
    "i will take the book to him",
    "the door of the house is here",
    "you said you will see it today",
    "they came to the house with friends",
)
"""Sentences that anyone may say in any mood."""

COLOURED: dict[str, tuple[str, ...]] = {
    "Angry": ("stop it now i said no", "i hate this so stop it", "never do that to me again"),
    "Sad": ("i miss you and i cry", "nobody is here i am alone", "he will never see home again"),
    "Happy": ("this is a wonderful day", "i love it it is so good", "great we will see my friends"),
    "Surprise": ("i cannot believe this is here", "what how did he do that", "really i never expect that"),
    "Fear": ("please help me i was afraid", "someone is at the door help", "there is danger in the house"),
    "Disgust": ("the food is dirty no", "what is that smell stop", "this smell is not good take it out"),
    "Contempt": ("of course that was typical", "typical people like you", "they never care how typical"),
    "Neutral": ("the train is late today", "it is here on the table", "they are at the house now"),
}
"""Sentences whose words lean to one class."""
