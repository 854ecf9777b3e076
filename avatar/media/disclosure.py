"""What is said to viewers and machines of a published file: that it is AI-made, by what, and in which language."""

from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

#: https://cv.iptc.org/newscodes/digitalsourcetype/
AI_MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
#: By language: its name in MP4 files (ISO 639-2), and the sentence that is owed to viewers. Those of the EU.
SENTENCES = {
    "bg": ("bul", "Това видео е създадено с изкуствен интелект."),  # noqa: RUF001
    "cs": ("ces", "Toto video bylo vytvořeno pomocí umělé inteligence."),
    "da": ("dan", "Denne video er lavet med kunstig intelligens."),
    "de": ("deu", "Dieses Video wurde mit künstlicher Intelligenz erzeugt."),
    "el": ("ell", "Αυτό το βίντεο δημιουργήθηκε με τεχνητή νοημοσύνη."),
    "en": ("eng", "This video was made with artificial intelligence."),
    "es": ("spa", "Este vídeo se ha creado con inteligencia artificial."),
    "et": ("est", "See video on loodud tehisintellekti abil."),
    "fi": ("fin", "Tämä video on tehty tekoälyn avulla."),
    "fr": ("fra", "Cette vidéo a été créée avec l'intelligence artificielle."),
    "ga": ("gle", "Cruthaíodh an físeán seo le hintleacht shaorga."),
    "hr": ("hrv", "Ovaj je videozapis izrađen pomoću umjetne inteligencije."),
    "hu": ("hun", "Ez a videó mesterséges intelligenciával készült."),
    "it": ("ita", "Questo video è stato realizzato con l'intelligenza artificiale."),
    "lt": ("lit", "Šis vaizdo įrašas sukurtas naudojant dirbtinį intelektą."),
    "lv": ("lav", "Šis video ir izveidots ar mākslīgo intelektu."),
    "mt": ("mlt", "Dan il-vidjo sar bl-intelliġenza artifiċjali."),
    "nl": ("nld", "Deze video is gemaakt met kunstmatige intelligentie."),
    "pl": ("pol", "Ten film powstał przy użyciu sztucznej inteligencji."),
    "pt": ("por", "Este vídeo foi criado com inteligência artificial."),
    "ro": ("ron", "Acest videoclip a fost creat cu ajutorul inteligenței artificiale."),
    "sk": ("slk", "Toto video bolo vytvorené pomocou umelej inteligencie."),
    "sl": ("slv", "Ta videoposnetek je bil ustvarjen z umetno inteligenco."),
    "sv": ("swe", "Den här videon är gjord med artificiell intelligens."),
}  # fmt: skip
#: Further languages that files can name.
_NAMED = {
    "ar": "ara", "fa": "fas", "he": "heb", "hi": "hin", "id": "ind", "ja": "jpn", "ko": "kor", "nb": "nob",
    "nn": "nno", "no": "nor", "ru": "rus", "sr": "srp", "th": "tha", "tr": "tur", "uk": "ukr", "vi": "vie",
    "zh": "zho",
}  # fmt: skip


def disclosure_for(language: str) -> str:
    """The sentence in that language (as in `de` or `pt-BR`), in English where there is none."""
    return SENTENCES.get(language.partition("-")[0].lower(), SENTENCES["en"])[1]


def file_language(language: str) -> str:
    """As MP4 files name it: `deu`; `und` where it is not known."""
    short = language.partition("-")[0].lower()
    known = SENTENCES[short][0] if short in SENTENCES else _NAMED.get(short, short)
    return known if len(known) == 3 else "und"  # noqa: PLR2004 - ISO 639-2


@dataclass(frozen=True)
class Marks:
    """What is written into a file about itself."""

    sentence: str
    language: str = field(default="")
    model: str = ""
    job_id: str = ""

    @property
    def comment(self) -> str:
        return f"{self.sentence} AI-generated: {self.model}, job {self.job_id}."


@dataclass(frozen=True)
class CaptionTrack:
    """A WebVTT file of ours, and its language as in `de` or `pt-BR`."""

    path: Path
    language: str


@dataclass(frozen=True)
class MarkedFile:
    """A line for each mark of the provider that was found and kept; whether the file could be copied.

    Attributes:
        is_exact: whether a decoder is given the same picture and sound as by the source.
    """

    kept: tuple[str, ...] = ()
    copied: bool = True
    is_exact: bool = False


def xmp_of(marks: Marks) -> str:
    """The XMP packet: IPTC's digital source type, and the same in words."""
    language = marks.language or "x-default"
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="avatar-flows"
 Iptc4xmpExt:DigitalSourceType="{AI_MADE}" Iptc4xmpExt:AISystemUsed={quoteattr(marks.model)}>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(marks.comment)}</rdf:li></rdf:Alt></dc:description>
<dc:language><rdf:Bag><rdf:li>{escape(language)}</rdf:li></rdf:Bag></dc:language>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
