"""Triton kernel of the gradient: each program owns a block of rows, with no atomics.

The derivatives of the loss in s_ij and in s_ji add up to a symmetric matrix M, and
dZ = M Z / T. A program recomputes the scores of its rows, turns them into M in
registers and multiplies by the same rows of Z that gave the scores.
"""

# ruff: noqa: ANN001, ANN201, ANN202, Triton compiles these functions: no Python types
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import triton
import triton.language as tl

from sklearn_hscl.losses.kernels.triton.forward import (
    UNSPECIALIZED,
    band_of,
    launcher,
    load_rows,
    negative_fraction,
    scores,
    skip_band,
)


@launcher
@triton.jit(do_not_specialize=UNSPECIALIZED)
def backward_kernel(
    z,  # (padded rows, WIDTH), sorted; names as in the forward kernel
    z_columns,  # (WIDTH, padded rows), z transposed; read only if TRANSPOSED
    start,
    end,
    weight,
    log_denominator,
    largest,
    repulsion_1,
    repulsion_0,
    order,  # (rows,) int64, index of each sorted row in the batch
    dz,  # out: (rows, n_columns), in the order of the caller
    n_rows,
    n_columns,
    n_padded,
    beta,
    sharpness,
    scale,  # 1 / T, from M Z to the gradient
    SIZE,
    TRANSPOSED: tl.constexpr,
    DETACHED: tl.constexpr,
    TILT: tl.constexpr,
    SHIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute BLOCK_D columns of the gradient of a block of rows."""
    first = tl.program_id(0) * BLOCK_M
    k = tl.program_id(1) * BLOCK_D
    rows = first + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    low, high = tl.load(start + rows), tl.load(end + rows)  # (BLOCK_M,)
    band, band_end = band_of(low, high, BLOCK_N)
    zi = load_rows(z, first, 0, BLOCK_M, BLOCK_D, WIDTH)  # (BLOCK_M, BLOCK_D)
    a_i = tl.load(repulsion_1 + rows)[:, None]
    b_i = tl.load(repulsion_0 + rows)[:, None]
    top_i = tl.load(largest + rows)[:, None]
    gradient = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    # No mask for the ragged last tile: its rows beyond the end are 0 in z.
    for t in range(0, tl.cdiv(n_rows, BLOCK_N) - (band_end - band)):
        col = skip_band(t, band, band_end) * BLOCK_N
        cols = col + tl.arange(0, BLOCK_N)
        u, zj = scores(
            z, zi, first, col, sharpness, PRECISION, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N
        )
        a_j = tl.load(repulsion_1 + cols)[None, :]
        b_j = tl.load(repulsion_0 + cols)[None, :]
        top_j = tl.load(largest + cols)[None, :]
        m = _of_negatives(
            u, a_i, a_j, b_i, b_j, top_i, top_j, beta, DETACHED, TILT, SHIFTED
        )  # (BLOCK_M, BLOCK_N)
        zj = _values(
            zj, z, z_columns, n_padded, col, k, TRANSPOSED, WIDTH, BLOCK_D, BLOCK_N
        )
        gradient = tl.dot(m.to(zj.dtype), zj, gradient, input_precision=PRECISION)

    w_i = tl.load(weight + rows)[:, None]
    log_d_i = tl.load(log_denominator + rows)[:, None]
    for t in range(band, band_end):
        col = t * BLOCK_N
        cols = col + tl.arange(0, BLOCK_N)
        u, zj = scores(
            z, zi, first, col, sharpness, PRECISION, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N
        )
        a_j = tl.load(repulsion_1 + cols)[None, :]
        b_j = tl.load(repulsion_0 + cols)[None, :]
        top_j = tl.load(largest + cols)[None, :]
        w_j = tl.load(weight + cols)[None, :]
        log_d_j = tl.load(log_denominator + cols)[None, :]
        m = _of_negatives(
            u, a_i, a_j, b_i, b_j, top_i, top_j, beta, DETACHED, TILT, SHIFTED
        )  # (BLOCK_M, BLOCK_N)
        same = (cols[None, :] >= low[:, None]) & (cols[None, :] < high[:, None])
        attraction = w_i * negative_fraction(u, log_d_i) + w_j * negative_fraction(
            u, log_d_j
        )
        m = tl.where(same, -attraction, m)
        m = tl.where(rows[:, None] == cols[None, :], 0.0, m)
        zj = _values(
            zj, z, z_columns, n_padded, col, k, TRANSPOSED, WIDTH, BLOCK_D, BLOCK_N
        )
        gradient = tl.dot(m.to(zj.dtype), zj, gradient, input_precision=PRECISION)

    real = rows < n_rows
    target = tl.load(order + rows, mask=real, other=0)[:, None]  # (BLOCK_M, 1)
    columns = (k + tl.arange(0, BLOCK_D))[None, :]
    tl.store(
        dz + target * n_columns + columns,
        (gradient * scale).to(dz.dtype.element_ty),
        mask=real[:, None] & (columns < n_columns),
    )


@triton.jit
def _values(
    zj,
    z,
    z_columns,
    n_padded,
    col,
    k,
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return BLOCK_D columns of the rows that M multiplies; `zj` if it holds them."""
    if TRANSPOSED:
        # Tensor cores take TF32 only with the summed axis contiguous. Reading it so
        # keeps the copies to shared memory asynchronous.
        columns = (k + tl.arange(0, BLOCK_D)).to(tl.int64)[:, None] * n_padded
        tile = tl.load(z_columns + columns + (col + tl.arange(0, BLOCK_N))[None, :])
        zj = tl.trans(tile)
    elif WIDTH != BLOCK_D:
        zj = load_rows(z, col, k, BLOCK_N, BLOCK_D, WIDTH)
    return zj  # (BLOCK_N, BLOCK_D)


@triton.jit
def _of_negatives(
    u,
    a_i,
    a_j,
    b_i,
    b_j,
    top_i,
    top_j,
    beta,
    DETACHED: tl.constexpr,
    TILT: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    """Return M of negative pairs: i's derivative in s_ij plus j's in s_ji."""
    if SHIFTED:
        # Never above 0 but for rounding, which β = 1000 would blow up.
        below_i = tl.minimum(u - top_i, 0.0)
        below_j = tl.minimum(u - top_j, 0.0)
        m = _repulsion(below_i, a_i, b_i, beta, DETACHED, TILT)
        m += _repulsion(below_j, a_j, b_j, beta, DETACHED, TILT)
    else:
        # Both sides share their exponentials.
        m = _repulsion(u, a_i + a_j, b_i + b_j, beta, DETACHED, TILT)
    return m  # (BLOCK_M, BLOCK_N)


@triton.jit
def _repulsion(x, a, b, beta, DETACHED: tl.constexpr, TILT: tl.constexpr):
    """Compute a 2^((1+β)x) - b 2^(βx); the second term only if η has a gradient."""
    if TILT == 0:
        value = a * tl.exp2(x)
    elif TILT == 1:
        e = tl.exp2(x)
        value = e * (a * e) if DETACHED else e * (a * e - b)
    elif DETACHED:
        value = a * tl.exp2((1 + beta) * x)
    else:
        value = tl.exp2(beta * x) * (a * tl.exp2(x) - b)
    return value
