"""Random transforms of images: each against its definition."""

import colorsys
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ImageTransforms
from sklearn_hscl.augment.image import (
    _blurred,
    _cropped,
    _Draws,
    _erased,
    _grey,
    _jittered,
    _with_hue,
)

NOTHING = {"crop": None, "flip": 0.0, "jitter": 0.0, "grey": 0.0}
IMAGES = torch.rand(8, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def views(images=IMAGES, seed=0, **parameters):
    transforms = ImageTransforms(**(NOTHING | parameters)).fitted(images)
    return transforms(images, torch.Generator().manual_seed(seed))


def test_nothing_leaves_images_as_they_are():
    assert torch.equal(views(), IMAGES)


def test_flip_mirrors_left_and_right():
    torch.testing.assert_close(views(flip=1.0), IMAGES.flip(3))
    flipped = views(IMAGES.repeat(50, 1, 1, 1), flip=0.5) != IMAGES.repeat(50, 1, 1, 1)
    fraction = flipped.flatten(1).any(1).float().mean().item()
    assert fraction == pytest.approx(0.5, abs=0.1)


def test_grey_images_have_equal_channels_of_the_old_brightness():
    grey = views(grey=1.0)
    assert torch.equal(grey[:, 0], grey[:, 1])
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
    torch.testing.assert_close(grey[:, 0], (IMAGES * weights).sum(1), atol=2e-3, rtol=0)


class FixedDraws(_Draws):
    """Draws that were written down, one after the other."""

    def __init__(self, rows, *values):
        super().__init__(rows, torch.Generator())
        self.values = list(values)

    def uniform(self, low, high):
        return torch.full(self.shape, self.values.pop(0), dtype=self.dtype)

    def ratio(self, low, high):
        return self.uniform(low, high)

    def order(self, n):
        return list(range(n))


def test_crops_are_interpolated_as_by_an_explicit_loop():
    area, ratio, down, right = 0.4, 1.2, 0.3, 0.9
    found = _cropped(IMAGES, FixedDraws(IMAGES, area, ratio, down, right), (0.2, 1.0))
    height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
    for i in range(12):
        for j in range(10):
            y = down * (1 - height) * 11 + i * height
            x = right * (1 - width) * 9 + j * width
            top, left = int(y), int(x)
            a, b = y - top, x - left
            value = (
                (1 - a) * (1 - b) * IMAGES[:, :, top, left]
                + (1 - a) * b * IMAGES[:, :, top, left + 1]
                + a * (1 - b) * IMAGES[:, :, top + 1, left]
                + a * b * IMAGES[:, :, top + 1, left + 1]
            )
            torch.testing.assert_close(found[:, :, i, j], value, atol=1e-5, rtol=0)


def test_blur_is_a_mean_with_gaussian_weights():
    std = 1.3
    found = _blurred(IMAGES, FixedDraws(IMAGES, std))
    for i, j in ((0, 0), (5, 4), (11, 2)):
        weights = torch.tensor(
            [
                [math.exp(-((i - k) ** 2 + (j - m) ** 2) / (2 * std**2)) for m in range(10)]
                for k in range(12)
            ]
        )
        value = (IMAGES * weights).sum((2, 3)) / weights.sum()
        torch.testing.assert_close(found[:, :, i, j], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.05, 0.5])
def test_hue_turns_as_in_the_standard_library(turn):
    images = torch.cat([IMAGES[:2, :, :4, :4], torch.full((1, 3, 4, 4), 0.5)])
    found = _with_hue(images, torch.full((3, 1, 1, 1), turn)).movedim(1, -1)
    colours = images.movedim(1, -1).reshape(-1, 3).tolist()
    for new, colour in zip(found.reshape(-1, 3).tolist(), colours, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert new == pytest.approx(
            colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-5
        )


def test_jitter_by_its_definition():
    # Brightness, contrast, saturation, no turn of the hue; then the image is changed.
    draws = FixedDraws(IMAGES, 1.2, 0, 0.7, 0, 1.3, 0, 0.0, 0)
    bright = (1.2 * IMAGES).clamp(0, 1)
    mean = _grey(bright).mean((2, 3), keepdim=True)
    contrast = (mean + 0.7 * (bright - mean)).clamp(0, 1)
    saturated = (_grey(contrast) + 1.3 * (contrast - _grey(contrast))).clamp(0, 1)
    found = _jittered(IMAGES, draws, 0.4, 0.8)
    torch.testing.assert_close(found, saturated, atol=1e-5, rtol=0)
    assert not draws.values


def test_erased_pixels_by_an_explicit_loop():
    area, ratio, down, right = 0.25, 1.5, 0.5, 0.99
    found = _erased(IMAGES, FixedDraws(IMAGES, area, ratio, down, right))
    height = round(12 * math.sqrt(area / ratio))
    width = round(10 * math.sqrt(area * ratio))
    top, left = int(down * (13 - height)), int(right * (11 - width))
    expected = IMAGES.clone()
    expected[:, :, top : top + height, left : left + width] = 0
    assert torch.equal(found, expected)


def test_crops_of_the_whole_area_change_little_and_small_ones_much():
    ramp = torch.linspace(0, 1, 32).expand(4, 1, 32, 32).contiguous()
    small = views(ramp, crop=(0.05, 0.05))
    std = small.amax((1, 2, 3)) - small.amin((1, 2, 3))
    # A crop of 5 % of the area spans sqrt(0.05) = 22 % of the ramp, times sqrt(3/4 .. 4/3).
    assert 0.1 < std.min().item() <= std.max().item() < 0.35


def test_crops_of_one_image_differ_and_are_bilinear_cuts():
    ramp = torch.linspace(0, 1, 16).expand(20, 1, 16, 16).contiguous()
    crops = views(ramp, crop=(0.3, 0.8))
    assert len(crops.flatten(1).unique(dim=0)) == 20
    steps = crops.diff(dim=3)  # a cut of a ramp is a ramp, across all of the image
    torch.testing.assert_close(steps, steps[..., :1].expand_as(steps), atol=1e-4, rtol=0)
    assert crops.min() >= -1e-5 and crops.max() <= 1 + 1e-5


def hue_of(images):
    flat = images.mean((2, 3)).tolist()
    turns = torch.tensor([colorsys.rgb_to_hsv(*colour)[0] for colour in flat])
    return (turns + 0.5) % 1 - 0.5  # from -1/2 to 1/2 around red


def test_jitter_of_colours():
    red = torch.tensor([0.5, 0.35, 0.35]).view(3, 1, 1).expand(300, 3, 4, 4).contiguous()
    changed = views(red, jitter=0.2, jitter_p=1.0)
    turns = hue_of(changed).abs()
    assert 0.04 < turns.max() <= 0.05 + 1e-4  # a quarter of 0.2
    # On a flat image contrast and saturation both blend with its grey: all three factors
    # scale the distance of the channels, and only brightness the light.
    std = (changed.amax(1) - changed.amin(1))[:, 0, 0] / 0.15
    assert 0.8**3 < std.min() < 0.75 and 1.3 < std.max() < 1.2**3
    light = changed.mean((1, 2, 3)) / red.mean()
    assert 0.75 < light.min() < 0.87 and 1.13 < light.max() < 1.25


def test_jitter_leaves_grey_grey_and_some_images_alone():
    grey = IMAGES[:, :1].expand(-1, 3, -1, -1).repeat(50, 1, 1, 1)
    changed = views(grey, jitter=0.4, jitter_p=0.5)
    assert (changed.amax(1) - changed.amin(1)).max() < 1e-3
    fraction = (changed != grey).flatten(1).any(1).float().mean().item()
    assert fraction == pytest.approx(0.5, abs=0.1)


def test_brightness_and_contrast_stay_within_bounds():
    flat = torch.full((200, 1, 4, 4), 0.5)
    light = views(flat, jitter=0.2, jitter_p=1.0).mean((1, 2, 3))
    assert light.min() >= (0.5 - 0.2) * 0.8 - 1e-5  # brightness is added, then contrast
    assert light.max() <= (0.5 + 0.2) * 1.2 + 1e-5
    assert light.std() > 0.03


def test_blur_keeps_the_mean_and_lowers_the_variance():
    flat = torch.nn.functional.pad(IMAGES, (8, 8, 8, 8))
    blurred = views(flat, blur=1.0)
    torch.testing.assert_close(blurred.sum((2, 3)), flat.sum((2, 3)), atol=1e-2, rtol=1e-3)
    assert (blurred.var((1, 2, 3)) <= flat.var((1, 2, 3))).all()


def test_blur_reaches_up_to_two_pixels():
    points = torch.zeros(300, 1, 31, 31)
    points[..., 15, 15] = 1
    blurred = views(points, blur=1.0)
    squares = (torch.arange(31) - 15) ** 2
    std = (blurred.sum((1, 2)) @ squares.float()).sqrt()  # along the width, (300,)
    assert std.min() < 0.3 and 1.9 < std.max() < 2.05


@pytest.mark.parametrize("pixels", [2, 5])
def test_blur_of_tiny_images(pixels):
    assert views(IMAGES[..., :pixels, :pixels], blur=1.0).isfinite().all()


def test_erased_fields_are_black_and_the_rest_is_kept():
    images = 0.9 * IMAGES + 0.1
    erased = views(images, erase=1.0)
    black = erased == 0
    assert ((erased == images) | black).all()
    assert torch.equal(black.any(1), black.all(1))  # in all channels
    fractions = views(torch.ones(200, 1, 32, 32), erase=1.0).eq(0).double().mean((1, 2, 3))
    assert 0.015 < fractions.min() < 0.06 and 0.25 < fractions.max() < 0.35
    for image in black[:, 0]:  # the field is a rectangle
        rows, columns = image.any(1).sum(), image.any(0).sum()
        assert image.sum() == rows * columns > 0


def test_views_follow_from_the_generator_and_leave_torch_alone():
    before = torch.get_rng_state()
    defaults = ImageTransforms().get_params()
    first, again, other = (views(seed=seed, **defaults) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


STRENGTHS = {
    "crop": {"crop": (0.3, 1.0)},
    "flip": {"flip": 0.5},
    "jitter": {"jitter": 0.4},
    "grey": {"grey": 0.5},
    "blur": {"blur": 0.5},
    "erase": {"erase": 0.5},
    "all": ImageTransforms(blur=0.5, erase=0.5).get_params(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (12, 10)])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("name", STRENGTHS)
def test_views_are_images_of_the_same_form(name, n_channels, height, width, dtype):
    images = IMAGES[:, :n_channels, :height, :width].to(dtype)
    before = images.clone()
    found = views(images, **STRENGTHS[name])
    assert found.shape == images.shape and found.dtype == dtype
    assert found.min() >= 0 and found.max() <= 1 + 1e-5
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_view_of_an_image_is_another(name):
    transforms = ImageTransforms(**(NOTHING | STRENGTHS[name])).fitted(IMAGES)
    generator = torch.Generator().manual_seed(0)
    first, second = (transforms(IMAGES, generator) for _ in range(2))
    assert not torch.equal(first, second)
    of_one = transforms(IMAGES[:1].expand(64, -1, -1, -1), generator)
    assert len(of_one.flatten(1).unique(dim=0)) >= 2


@pytest.mark.parametrize("n_channels", [1, 3])
def test_training_on_views(n_channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, n_channels), dtype=np.uint8)
    fits = [
        HSCLEmbedder(
            loss="hucl", augment=ImageTransforms(), max_epochs=2, random_state=0
        ).fit(images)
        for _ in range(2)
    ]
    assert np.isfinite(fits[0].loss_curve_).all()
    assert fits[0].loss_curve_ == fits[1].loss_curve_


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"flip": 2.0}, "flip must be in"),
        ({"erase": "often"}, "erase must be in"),
        ({"jitter": -1.0}, "jitter must be at least 0"),
        ({"crop": (0.5, 0.2)}, "crop must hold two fractions"),
        ({"crop": (0.5,)}, "crop must hold two fractions"),
        ({"crop": 0.5}, "crop must hold two fractions"),
        ({"crop": ("a", "b")}, "crop must hold two fractions"),
        ({"jitter": float("inf")}, "jitter must be at least 0 and finite"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        views(**parameters)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_floats_of_another_range_give_the_same_views_in_that_range(n_channels):
    images = IMAGES[:, :n_channels].contiguous()
    low, high = images.min(), images.max()
    scaled = (images - low) / (high - low)  # black is 0 and white is 1
    parameters = ImageTransforms(blur=0.5, erase=0.5).get_params()
    expected = 16 * views(scaled, **parameters) - 3
    torch.testing.assert_close(views(16 * scaled - 3, **parameters), expected)


def test_bytes_have_the_range_of_their_type():
    as_bytes = torch.full((4, 3, 8, 8), 30, dtype=torch.uint8)
    transforms = ImageTransforms().fitted(as_bytes)
    assert (transforms.black_, transforms.white_) == (0, 1)


def test_strong_jitter_of_grey_images():
    assert views(IMAGES[:, :1].contiguous(), jitter=3.0, jitter_p=1.0).isfinite().all()


def test_equal_views_are_refused():
    images = np.zeros((20, 8, 8), np.uint8)
    only_grey = NOTHING | {"grey": 1.0}  # which grey images are already
    for parameters in (NOTHING, only_grey):
        augment = ImageTransforms(**parameters)
        with pytest.raises(ValueError, match="nothing to learn"):
            HSCLEmbedder(loss="hucl", augment=augment).fit(images)


@pytest.mark.parametrize("n_channels", [2, 4])
def test_colours_of_other_channels_are_refused(n_channels):
    images = torch.rand(4, n_channels, 8, 8)
    for parameters in ({"jitter": 0.4}, {"grey": 0.2}):
        with pytest.raises(ValueError, match=rf"got {n_channels} channels\. Set jitter=0"):
            views(images, **parameters)
    assert views(images, flip=1.0).shape == images.shape


def test_tables_are_refused():
    with pytest.raises(ValueError, match="needs images"):
        views(torch.ones(3, 4))


def test_fits_leave_the_generators_of_torch_alone_and_do_not_share_them():
    images, y = IMAGES.repeat(4, 1, 1, 1).numpy(), np.arange(32) % 3

    def embeddings(_):
        embedder = HSCLEmbedder(
            encoder="conv", augment=ImageTransforms(), max_epochs=2, random_state=0
        )
        return embedder.fit(images, y).transform(images)

    state = torch.get_rng_state()
    alone = embeddings(0)
    assert torch.equal(torch.get_rng_state(), state)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(embeddings, range(3)):
            np.testing.assert_array_equal(found, alone)
