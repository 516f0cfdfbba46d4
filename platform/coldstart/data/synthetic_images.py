"""Images and texts of the synthetic catalog, generated from the trait levels of an item.

An image shows hue, shape, pattern and setting. A title names topic and tone. The text names the setting; if an item has
no text, its title does.
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Levels = dict[str, NDArray[np.int64]]

SHAPES = ("disc", "square", "triangle", "star", "cross", "ring")
PATTERNS = ("plain", "stripes", "dots", "checks")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")

TOPICS: dict[str, tuple[str, ...]] = {
    "cooking": ("sourdough", "noodles", "curry", "baking", "skillet", "broth"),
    "travel": ("itinerary", "backpacking", "hostels", "passport", "roadtrip", "luggage"),
    "fitness": ("squats", "running", "yoga", "dumbbells", "stretching", "cardio"),
    "gardening": ("seedlings", "compost", "pruning", "tomatoes", "mulch", "orchids"),
    "music": ("guitar", "vinyl", "drums", "chords", "synths", "choir"),
    "pets": ("puppies", "kittens", "parrots", "leashes", "hamsters", "aquarium"),
    "fashion": ("sneakers", "denim", "scarves", "jackets", "outfits", "tailoring"),
    "gaming": ("speedruns", "consoles", "quests", "joysticks", "pixels", "arcade"),
    "reading": ("novels", "poetry", "paperbacks", "memoirs", "chapters", "library"),
    "astronomy": ("planets", "telescope", "comets", "nebula", "eclipse", "orbits"),
}
TONES: dict[str, tuple[str, ...]] = {
    "funny": ("hilarious", "silly", "witty", "goofy", "playful", "cheeky"),
    "calm": ("gentle", "quiet", "soothing", "mellow", "slow", "peaceful"),
    "practical": ("handy", "useful", "simple", "thrifty", "sensible", "tidy"),
    "bold": ("fearless", "wild", "daring", "fierce", "epic", "extreme"),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "beach": ("shore", "lagoon", "seaside", "harbour", "surf", "pier"),
    "forest": ("woods", "grove", "pines", "thicket", "glade", "ferns"),
    "city": ("avenue", "rooftop", "plaza", "subway", "skyline", "tower"),
    "desert": ("canyon", "mesa", "oasis", "cactus", "badlands", "ravine"),
    "winter": ("glacier", "icicles", "sleigh", "frost", "igloo", "blizzard"),
}
_NOUNS = ("notes", "ideas", "diary", "guide", "stories", "tips", "lessons", "weekend")
_FILLERS = (
    "made after work",
    "told in five minutes",
    "from people who tried",
    "for this week",
    "with a few friends",
    "one step at a time",
    "without any rush",
    "as promised last time",
)
_TITLES = (
    "{tone} {topic} {noun}",
    "my {tone} {topic} {noun}",
    "{topic} the {tone} way",
    "{noun} on {tone} {topic}",
    "a {tone} take on {topic}",
)
_SENTENCES = (
    "A {tone} look at {topic} near the {setting}, {filler}.",
    "We went to the {setting} for {topic}: {tone}, and {filler}.",
    "By the {setting}, {topic} can be {tone}, {filler}.",
)
_CLOSINGS = (
    "Expect {topic} and more {tone} {noun}.",
    "More {tone} {noun} follow soon.",
    "Save it, share it, {filler}.",
)

# Background and frame colors of a setting (RGB in 0..1): muted, so that they are not mistaken for the shape's hue.
_GROUNDS = np.array(
    [[0.87, 0.80, 0.66], [0.25, 0.34, 0.26], [0.55, 0.55, 0.57], [0.47, 0.33, 0.25], [0.93, 0.95, 0.98]]
)
_FRAMES = np.array([[0.35, 0.50, 0.60], [0.55, 0.62, 0.50], [0.15, 0.15, 0.17], [0.85, 0.72, 0.55], [0.55, 0.65, 0.80]])
_FRAME_WIDTHS = np.array([0.10, 0.05, 0.12, 0.05, 0.10])

IMAGE_TRAITS: dict[str, int] = {"hue": len(HUES), "shape": len(SHAPES), "pattern": len(PATTERNS)}
TEXT_TRAITS: dict[str, int] = {"topic": len(TOPICS), "tone": len(TONES), "setting": len(SETTINGS)}
"""Number of levels per trait. The setting belongs to the text, which always names it; images show it too."""


def draw_images(levels: Levels, size: int, rng: np.random.Generator, *, chunk: int = 128) -> Iterator[bytes]:
    """Yields one JPEG per item, `size` pixels per side.

    Args:
        levels: Trait name -> level of each item; hue, shape, pattern and setting are used.
        size: Pixels per side.
        rng: Source of position, size, tilt, color jitter and noise.
        chunk: Items drawn at once.
    """
    for start in range(0, len(levels["hue"]), chunk):
        part = {name: values[start : start + chunk] for name, values in levels.items()}
        for pixels in _paint(part, size, rng):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=90, subsampling=0)
            yield stream.getvalue()


def _paint(levels: Levels, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """RGB pixels [n, size, size, 3] of n items."""
    n = len(levels["hue"])
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.broadcast_to(axis[None, None, :], (n, size, size)), np.broadcast_to(axis[None, :, None], (n, size, size))
    center, radius = rng.uniform(-0.10, 0.10, (2, n, 1, 1)), rng.uniform(0.58, 0.74, (n, 1, 1))
    tilt = rng.uniform(-0.2, 0.2, (n, 1, 1))
    dx, dy = (x - center[0]) / radius, (y - center[1]) / radius
    u, v = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)

    # Antialiasing: the opacity of a pixel is its distance to the edge, in pixels.
    inside = np.clip(_signed_distance(u, v, levels["shape"]) * radius * size / 2 + 0.5, 0, 1)[..., None]
    fill = _hues(levels["hue"] * 60 + rng.uniform(-11, 11, n), rng.uniform(0.75, 0.95, n), rng.uniform(0.75, 0.95, n))
    ink = np.where(fill @ np.array([0.30, 0.59, 0.11]) > 0.45, 0.08, 0.95)[:, None] * np.ones(3)
    inked = _pattern(u, v, levels["pattern"], rng.uniform(0, 1, (n, 1, 1)))[..., None]
    ground = _GROUNDS[levels["setting"]] + rng.normal(0, 0.03, (n, 3))
    edge = 1 - np.maximum(np.abs(x), np.abs(y))
    framed = (edge < 2 * _FRAME_WIDTHS[levels["setting"]][:, None, None])[..., None]

    image = np.where(framed, _FRAMES[levels["setting"]][:, None, None, :], ground[:, None, None, :])
    surface = fill[:, None, None, :] * (1 - inked) + ink[:, None, None, :] * inked
    image = image * (1 - inside) + surface * inside
    image = image * rng.uniform(0.9, 1.08, (n, 1, 1, 1)) + rng.normal(0, 0.03, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _signed_distance(u: Floats, v: Floats, shape: NDArray[np.int64]) -> Floats:
    """Signed distance of each point to the edge of the item's shape, in radii; negative outside."""
    out = np.empty_like(u)
    for level, name in enumerate(SHAPES):
        chosen = shape == level
        a, b = u[chosen], v[chosen]
        round_ = np.hypot(a, b)
        if name == "disc":
            out[chosen] = 0.9 - round_
        elif name == "square":
            out[chosen] = 0.78 - np.maximum(np.abs(a), np.abs(b))
        elif name == "triangle":
            out[chosen] = 0.5 - np.maximum(np.abs(a) * 0.866 - b * 0.5, b)
        elif name == "star":
            angle = np.arctan2(a, -b)
            out[chosen] = (0.68 + 0.32 * np.cos(5 * angle) - round_) * 0.7
        elif name == "cross":
            arms = np.minimum(
                np.maximum(np.abs(a) - 0.95, np.abs(b) - 0.34), np.maximum(np.abs(b) - 0.95, np.abs(a) - 0.34)
            )
            out[chosen] = -arms
        else:
            out[chosen] = 0.28 - np.abs(round_ - 0.7)
    return out


def _pattern(u: Floats, v: Floats, pattern: NDArray[np.int64], phase: Floats) -> Floats:
    """Whether each point is inked (1) or filled (0)."""
    p, q = u * 2.2 + phase, v * 2.2 + phase
    stripes = (p + q) % 1 < 0.42
    dots = np.hypot(p * 1.2 % 1 - 0.5, q * 1.2 % 1 - 0.5) < 0.31
    checks = (np.floor(p * 1.5) + np.floor(q * 1.5)) % 2 == 0
    level = pattern[:, None, None]
    inked: Floats = np.select([level == 1, level == 2, level == 3], [stripes, dots, checks], False).astype(np.float64)
    return inked


def _hues(degrees: Floats, saturation: Floats, value: Floats) -> Floats:
    """HSV to RGB [n, 3]."""
    offset = (np.array([5, 3, 1]) + degrees[:, None] / 60) % 6
    color: Floats = value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(offset, 4 - offset), 0, 1))
    return color


def write_texts(
    levels: Levels, has_text: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[list[str], list[str | None]]:
    """Titles and texts of all items.

    Args:
        levels: Trait name -> level of each item; topic, tone and setting are used.
        has_text: Whether an item has a text; if not, its title names the setting.
        rng: Source of wording.
    """
    lexicon = {"topic": list(TOPICS.values()), "tone": list(TONES.values()), "setting": list(SETTINGS.values())}
    picks = rng.integers(0, 2**31, (len(has_text), 14))
    titles: list[str] = []
    texts: list[str | None] = []
    for item, pick in enumerate(picks):

        def words(*columns: int, item: int = item, pick: NDArray[np.int64] = pick) -> dict[str, str]:
            named = {
                name: _pick(options[levels[name][item]], pick[column])
                for (name, options), column in zip(lexicon.items(), columns, strict=False)
            }
            return named | {"noun": _pick(_NOUNS, pick[columns[3]]), "filler": _pick(_FILLERS, pick[columns[4]])}

        first, second = words(0, 1, 2, 3, 4), words(5, 6, 7, 8, 9)
        title = _pick(_TITLES, pick[10]).format(**first)
        if has_text[item]:
            text = _pick(_SENTENCES, pick[11]).format(**second)
            if pick[12] % 2:
                text += " " + _pick(_CLOSINGS, pick[13]).format(**words(9, 8, 7, 6, 5))
            texts.append(text)
        else:
            title += f" near the {first['setting']}"
            texts.append(None)
        titles.append(title[0].upper() + title[1:])
    return titles, texts


def _pick(options: tuple[str, ...], draw: int) -> str:
    return options[int(draw) % len(options)]
