"""Triton kernel of the loss: each program owns a block of anchors and streams the rest.

Rows come sorted by group, so that the positives of a block of anchors lie in one band
of tiles; all other tiles hold negatives only and need no mask. With u = s·log2(e) every
exponential is one exp2. Logits live in registers, never in memory.
"""

# ruff: noqa: ANN001, ANN201, ANN202, Triton compiles these functions: no Python types
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import functools
import threading
from typing import Any

import torch
import triton
import triton.language as tl

# In the signatures below: BLOCK_M anchors and BLOCK_N streamed rows a tile; WIDTH
# columns of z in memory, read BLOCK_D at a time; TILT 0: β = 0, 1: β = 1, 2: any β;
# SHIFTED: take each anchor's largest u out of the exponents; PRECISION: of products.

EMPTY = tl.constexpr(-1e30)  # maximum of an empty set; finite, so EMPTY - EMPTY = 0
LN2 = tl.constexpr(0.6931471805599453)

ROWS_MULTIPLE = 128  # every block of rows below divides it
# BLOCK_M, BLOCK_N, warps, and stages of the pipeline of loads. Large blocks read each
# row of z less often; two or more small ones fit a multiprocessor, which can then take
# exponentials of one while the tensor cores multiply another.
TIMED_BLOCKS = (
    (128, 128, 8, 3),
    (128, 128, 8, 2),
    (128, 64, 8, 3),
    (128, 64, 8, 2),
    (64, 128, 4, 3),
    (64, 64, 4, 3),
    (64, 64, 4, 2),
    (64, 32, 4, 2),
    (64, 32, 8, 2),
    (32, 32, 4, 2),
)
TUNED_FOR = ["SIZE", "WIDTH", "PRECISION", "TILT", "DETACHED", "SHIFTED"]
# Timing compiles every block, which takes a minute. Smaller batches never win it back.
_MIN_TIMED_SIZE = 8192
# Of numbers that change with the batch, no other value compiles a kernel again.
UNSPECIALIZED = ["n_rows", "SIZE"]


JitKernel = Any  # Triton has no types for compiled functions and their launchers


class Interpreted:
    """A kernel on the CPU (TRITON_INTERPRET=1): fixed blocks, nothing to time."""

    def __init__(self, kernel: JitKernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: object) -> JitKernel:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: object, *arguments: object, **constants: Any) -> None:
        # Small blocks have more edges; the interpreter takes its time per block.
        m, n = (32, 16) if constants["SIZE"] <= 64 else (128, 64)
        self.kernel[grid](*arguments, BLOCK_M=m, BLOCK_N=n, **constants)


class Compiled:
    """A kernel on a GPU: with fixed blocks, or with the fastest ones for large batches."""

    def __init__(self, kernel: JitKernel) -> None:
        configs = [
            triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
            for m, n, warps, stages in TIMED_BLOCKS
        ]
        pruning = {"early_config_prune": _that_fit}
        self.kernel = kernel
        self.timed = triton.autotune(configs, key=TUNED_FOR, prune_configs_by=pruning)(
            kernel
        )
        self._lock = threading.Lock()  # Triton's tuner keeps the arguments of a call

    def __getitem__(self, grid: object) -> JitKernel:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: object, *arguments: object, **constants: Any) -> None:
        if _may_time(constants["SIZE"]):
            with self._lock:
                self.timed[grid](*arguments, **constants)
        else:
            blocks = fixed_blocks(constants["PRECISION"], constants["BLOCK_D"])
            self.kernel[grid](*arguments, **blocks, **constants)


def fixed_blocks(precision: str, block_width: int) -> dict[str, int]:
    """Return sizes of blocks that fit every GPU with 99 kB of memory for a block."""
    is_small = precision == "ieee" or block_width > 128
    return {
        "BLOCK_M": 32 if is_small else 64,
        "BLOCK_N": 32,
        "num_warps": 4,
        "num_stages": 2,
    }


def _may_time(size: int) -> bool:
    """Return whether blocks may be timed, after which the last bits depend on the clock."""
    return (
        size >= _MIN_TIMED_SIZE
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.cuda.is_current_stream_capturing()
    )


def _that_fit(
    configs: list[triton.Config], arguments: dict[str, object], **constants: object
) -> list[triton.Config]:
    """Exclude blocks whose products spill without tensor cores."""
    if constants["PRECISION"] != "ieee":
        return configs
    return [c for c in configs if c.kwargs["BLOCK_M"] * c.kwargs["BLOCK_N"] <= 64 * 32]


def launcher(kernel: JitKernel) -> Interpreted | Compiled:
    """Wrap a kernel so that a launch chooses its blocks."""
    is_compiled = isinstance(kernel, triton.JITFunction)
    return Compiled(kernel) if is_compiled else Interpreted(kernel)


@launcher
@triton.jit(do_not_specialize=UNSPECIALIZED)
def forward_kernel(
    z,  # (padded rows, WIDTH), sorted by group
    start,  # (padded rows,) int32, first row of the row's group
    end,  # (padded rows,) int32, one past its last row
    log_mass,  # (padded rows,) log2 Q_i
    weight,  # (padded rows,) of each positive pair of the anchor; 0: skipped
    log_denominator,  # out, as all below: log2(Q_i E_i)
    largest,  # largest u of a negative; only if SHIFTED
    repulsion_1,  # factor of 2^((1+β)(u - largest)) in the gradient
    repulsion_0,  # factor of 2^(β(u - largest)), 0 if weights are detached
    loss,  # contribution of the anchor to the loss
    effective,  # (Σ η)² / Σ η²
    n_rows,
    beta,
    sharpness,  # log2(e) / T, from cosine to u
    SIZE,  # power of two near n_rows: what the block sizes are tuned for
    DETACHED: tl.constexpr,
    TILT: tl.constexpr,
    SHIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sum over the negatives of a block of anchors, then weigh their positives."""
    first = tl.program_id(0) * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    low, high = tl.load(start + rows), tl.load(end + rows)  # (BLOCK_M,)
    zi = load_rows(z, first, 0, BLOCK_M, BLOCK_D, WIDTH)  # (BLOCK_M, BLOCK_D)
    band, band_end = band_of(low, high, BLOCK_N)
    n_full, n_tiles = n_rows // BLOCK_N, tl.cdiv(n_rows, BLOCK_N)

    top = tl.full((BLOCK_M,), EMPTY, tl.float32)
    s0 = tl.zeros((BLOCK_M,), tl.float32)  # Σ 2^(β(u - top)) over negatives
    s00 = tl.zeros((BLOCK_M,), tl.float32)  # Σ of its squares
    s1 = tl.zeros((BLOCK_M,), tl.float32)  # Σ 2^((1+β)(u - top))
    n_clean = n_full - (tl.minimum(band_end, n_full) - tl.minimum(band, n_full))
    for t in range(0, n_clean):
        col = skip_band(t, band, band_end) * BLOCK_N
        u, _ = scores(
            z, zi, first, col, sharpness, PRECISION, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N
        )
        top, s0, s00, s1 = _add(u, top, s0, s00, s1, beta, TILT, SHIFTED)

    # The last tile may be ragged: mask it as well if it lies outside the band.
    ragged = ((band_end < n_tiles) & (n_full < n_tiles)).to(tl.int32)
    for t in range(band, band_end + ragged):
        col = tl.where(t < band_end, t, n_tiles - 1) * BLOCK_N
        u, _ = scores(
            z, zi, first, col, sharpness, PRECISION, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N
        )
        cols = (col + tl.arange(0, BLOCK_N))[None, :]
        negative = ((cols < low[:, None]) | (cols >= high[:, None])) & (cols < n_rows)
        u = tl.where(negative, u, float("-inf"))
        top, s0, s00, s1 = _add(u, top, s0, s00, s1, beta, TILT, SHIFTED)

    if TILT == 0:
        s0 = (n_rows - (high - low)).to(tl.float32)
        s00 = s0
    if TILT == 1:
        s00 = s1
    no_negatives = s1 == 0  # weight is 0: only keep the values finite
    s0, s1 = tl.where(no_negatives, 1.0, s0), tl.where(no_negatives, 1.0, s1)
    log_d = tl.load(log_mass + rows) + tl.log2(s1) - tl.log2(s0)  # (BLOCK_M,)
    if SHIFTED:
        log_d += tl.where(no_negatives, 0.0, top)
        tl.store(largest + rows, top)

    pair_loss = tl.zeros((BLOCK_M,), tl.float32)
    sigma = tl.zeros((BLOCK_M,), tl.float32)
    for t in range(band, band_end):
        col = t * BLOCK_N
        u, _ = scores(
            z, zi, first, col, sharpness, PRECISION, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N
        )
        cols = (col + tl.arange(0, BLOCK_N))[None, :]
        positive = (cols >= low[:, None]) & (cols < high[:, None])
        positive = positive & (cols != rows[:, None])
        pair_loss += tl.sum(
            tl.where(positive, log2_of_1_plus_exp2(log_d[:, None] - u), 0.0), 1
        )
        sigma += tl.sum(tl.where(positive, negative_fraction(u, log_d[:, None]), 0.0), 1)

    w = tl.load(weight + rows)  # (BLOCK_M,)
    strength = w * sigma  # derivative of the loss in log(Q_i E_i)
    tl.store(loss + rows, w * pair_loss * LN2)
    tl.store(log_denominator + rows, log_d)
    tl.store(effective + rows, s0 * (s0 / tl.where(no_negatives, 1.0, s00)))
    if DETACHED:
        tl.store(repulsion_1 + rows, strength / s1)
    else:
        tl.store(repulsion_1 + rows, (1 + beta) * strength / s1)
        tl.store(repulsion_0 + rows, beta * strength / s0)


@triton.jit
def _add(u, top, s0, s00, s1, beta, TILT: tl.constexpr, SHIFTED: tl.constexpr):
    """Add a tile of negatives (u = -inf: none) to the running maximum and sums."""
    if SHIFTED:
        new_top = tl.maximum(top, tl.max(u, 1))  # (BLOCK_M,)
        fade = top - new_top
        s0 *= tl.exp2(beta * fade)
        s00 *= tl.exp2(2 * beta * fade)
        s1 *= tl.exp2((1 + beta) * fade)
        top = new_top
        u -= top[:, None]
    if TILT == 0:
        s1 += tl.sum(tl.exp2(u), 1)
    elif TILT == 1:
        e = tl.exp2(u)  # (BLOCK_M, BLOCK_N)
        s0 += tl.sum(e, 1)
        s1 += tl.sum(e * e, 1)
    else:
        e0 = tl.exp2(beta * u)  # (BLOCK_M, BLOCK_N)
        s0 += tl.sum(e0, 1)
        s00 += tl.sum(e0 * e0, 1)
        s1 += tl.sum(e0 * tl.exp2(u), 1)
    return top, s0, s00, s1


@triton.jit
def negative_fraction(u, log_d):
    """Return σ = D / (D + 2^u), which falls to 0 as the positive exceeds the negatives."""
    return 1.0 / (1.0 + tl.exp2(tl.minimum(u - log_d, 126.0)))  # 126: no overflow


@triton.jit
def log2_of_1_plus_exp2(x):
    """Return log2(1 + 2^x), with full precision for tiny 2^x."""
    small = tl.exp2(-tl.abs(x))
    rounded = 1.0 + small
    lost = rounded - 1.0  # the part of `small` that survived the addition
    safe = tl.where(lost > 0, lost, 1.0)
    log1p = tl.where(lost > 0, tl.log2(rounded) * (small / safe), small / LN2)
    return tl.maximum(x, 0.0) + log1p


@triton.jit
def scores(
    z,
    zi,  # (BLOCK_M, BLOCK_D), the anchors, if one read holds all columns
    first,
    col,
    sharpness,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute u of the anchors from `first` on with the rows from `col` on.

    Also returns the rows, or the last of their columns if one read does not hold all.
    """
    zj = load_rows(z, col, WIDTH - BLOCK_D, BLOCK_N, BLOCK_D, WIDTH)  # (BLOCK_N, BLOCK_D)
    if WIDTH == BLOCK_D:
        cosine = tl.dot(zi, tl.trans(zj), input_precision=PRECISION)
    else:
        cosine = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, WIDTH, BLOCK_D):
            zi_k = load_rows(z, first, k, BLOCK_M, BLOCK_D, WIDTH)
            zj_k = load_rows(z, col, k, BLOCK_N, BLOCK_D, WIDTH)
            cosine = tl.dot(zi_k, tl.trans(zj_k), cosine, input_precision=PRECISION)
    return cosine * sharpness, zj  # (BLOCK_M, BLOCK_N), (BLOCK_N, BLOCK_D)


@triton.jit
def load_rows(z, first, k, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, WIDTH: tl.constexpr):
    """Load rows `first`... and columns `k`... of z, which is padded: no masks."""
    offsets = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, BLOCK_D)[None, :]
    base = z + tl.cast(first, tl.int64) * WIDTH + k  # int64: B·D may pass 2³¹
    return tl.load(base + offsets)  # (ROWS, BLOCK_D)


@triton.jit
def band_of(low, high, BLOCK_N: tl.constexpr):
    """Return the first tile with rows of the anchors' groups, and one past the last."""
    return tl.min(low, 0) // BLOCK_N, tl.cdiv(tl.max(high, 0), BLOCK_N)


@triton.jit
def skip_band(t, band, band_end):
    """Return the t-th tile outside the band."""
    return tl.where(t < band, t, t + band_end - band)
