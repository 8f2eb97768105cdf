"""Colours that colour-blind readers can tell apart, and markers that help them."""

# Of Okabe and Ito, "Color universal design", 2008; without the yellow, which is too pale
# on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, BLACK = "#CC79A7", "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#767676"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def class_style(k: int) -> tuple[str, str]:
    """Return colour and marker of the k-th class: 56 pairs, then they come again."""
    return COLORS[k % len(COLORS)], _MARKERS[k // len(COLORS) % len(_MARKERS)]
