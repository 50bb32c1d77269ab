"""Per-chunk computations of the delta rule as Triton kernels for CUDA, for all chunks in parallel.

`chunkwise` in `delta_rule.py` is the same in plain torch, with the same names: overlap, scores, u, w. Here
the (tokens, tokens) matrices of a chunk stay in registers; only the inverse of A = I + overlap is stored, for
the gradient. The inverse is computed by doubling: if X is the inverse for blocks of n tokens, that for blocks
of 2n is X - X B X, B being the part of A between the halves; unlike a power series in A this stays exact for
repeated keys.

Why not flash-linear-attention's `chunk_gated_delta_rule`: it refuses float32, rounds the inverse to bfloat16,
and autotunes its kernels for each number and size of heads, for which a search of many sizes would wait.
"""

from __future__ import annotations

from surgery.ops.kernels import jit, tl

ROWS = 64  # tokens per chunk


@jit
def _chunk_of_program(length, heads, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return this program's (head, index of its chunk among all, rows of its tokens, mask of real rows)."""
    pair = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    return (
        pair % heads,
        pair * tl.num_programs(0) + tl.program_id(0),
        pair // heads * length + token,
        token < length,
    )


@jit
def _unit(x, eps):  # type: ignore[no-untyped-def]
    """Return (rows normalised to length one, 1 / original lengths)."""
    inverse = 1 / tl.sqrt(tl.sum(x * x, 1) + eps)
    return x * inverse[:, None], inverse


@jit
def _unit_back(d_unit, unit, inverse):  # type: ignore[no-untyped-def]
    return (d_unit - unit * tl.sum(d_unit * unit, 1)[:, None]) * inverse[:, None]


@jit
def _queries_and_keys(qkv, at, real, heads, head, key, value, eps, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return (queries of length one, 1 / original lengths, keys of length one, offsets of queries, mask)."""
    channel = tl.arange(0, WIDTH)
    offset = at[:, None] * (heads * (2 * key + value)) + head * key + channel[None, :]
    mask = real[:, None] & (channel < key)[None, :]
    q, inverse = _unit(tl.load(qkv + offset, mask=mask, other=0.0).to(tl.float32), eps)
    k, _ = _unit(tl.load(qkv + offset + heads * key, mask=mask, other=0.0).to(tl.float32), eps)
    return q, inverse, k, offset, mask


@jit
def _fades(g, at, real, heads, head, DECAY: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the running sum of g, and exp of its differences in the lower triangle (zeros above it)."""
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    if DECAY:
        total += tl.cumsum(tl.load(g + at * heads + head, mask=real, other=0.0), 0)
    seen = row[:, None] >= row[None, :]
    # masked before exp: exponents above the diagonal are positive and could overflow
    gap = tl.where(seen, total[:, None] - total[None, :], 0.0)
    return total, tl.where(seen, tl.exp(gap), 0.0)


@jit
def prepare(  # type: ignore[no-untyped-def]
    qkv, g, beta, inverse, w, u, faded, decay,
    length, heads, key, value, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute u, w, keys decayed to the chunk's end, the chunk's decay, and the inverse of A."""
    head, chunk, at, real = _chunk_of_program(length, heads, ROWS)
    row, channel = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    channels = heads * (2 * key + value)
    in_key = real[:, None] & (channel < key)[None, :]
    k = tl.load(
        qkv + at[:, None] * channels + (heads + head) * key + channel[None, :], mask=in_key, other=0.0
    )
    k, _ = _unit(k.to(tl.float32), eps)
    rate = tl.load(beta + at * heads + head, mask=real, other=0.0)
    total, between = _fades(g, at, real, heads, head, DECAY, ROWS)
    overlap = tl.dot(k, tl.trans(k), input_precision=PRECISION) * between * rate[:, None]
    overlap = tl.where(row[:, None] > row[None, :], overlap, 0.0)
    apart = row[:, None] ^ row[None, :]
    solve = tl.where(apart == 0, 1.0, 0.0) - tl.where(apart == 1, overlap, 0.0)
    for level in tl.static_range(1, 6):
        part = tl.where((apart >> level) == 1, overlap, 0.0)
        part = tl.dot(part, solve, input_precision=PRECISION)
        solve -= tl.dot(solve, part, input_precision=PRECISION)
    in_chunk = chunk * ROWS + row
    tl.store(inverse + in_chunk[:, None] * ROWS + row[None, :], solve)
    at_key = in_chunk[:, None] * key + channel[None, :]
    is_key = (channel < key)[None, :] & (row >= 0)[:, None]
    last = tl.sum(tl.where(row == ROWS - 1, total, 0.0), 0)
    x = tl.dot(solve, k * (rate * tl.exp(total))[:, None], input_precision=PRECISION)
    tl.store(w + at_key, x, mask=is_key)
    tl.store(faded + at_key, k * tl.exp(last - total)[:, None], mask=is_key)
    tl.store(decay + chunk, tl.exp(last))
    for first in range(0, value, BLOCK):
        column = first + tl.arange(0, BLOCK)
        in_value = real[:, None] & (column < value)[None, :]
        v = tl.load(
            qkv + at[:, None] * channels + 2 * heads * key + head * value + column[None, :],
            mask=in_value,
            other=0.0,
        )
        new = tl.dot(solve, v.to(tl.float32) * rate[:, None], input_precision=PRECISION)
        tl.store(
            u + in_chunk[:, None] * value + column[None, :],
            new,
            mask=(column < value)[None, :] & (row >= 0)[:, None],
        )


@jit
def read(  # type: ignore[no-untyped-def]
    qkv, g, before, written, out,
    length, heads, key, value, eps, scale,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the outputs: reads from the state before the chunk, and from the chunk's own writes."""
    head, chunk, at, real = _chunk_of_program(length, heads, ROWS)
    row, channel = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    q, _, k, _, _ = _queries_and_keys(qkv, at, real, heads, head, key, value, eps, WIDTH)
    total, between = _fades(g, at, real, heads, head, DECAY, ROWS)
    q *= scale
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * between
    q *= tl.exp(total)[:, None]
    for first in range(0, value, BLOCK):
        column = first + tl.arange(0, BLOCK)
        is_value = (column < value)[None, :]
        state = tl.load(
            before + (chunk * key + channel[:, None]) * value + column[None, :],
            mask=(channel < key)[:, None] & is_value, other=0.0,
        )  # fmt: skip
        new = tl.load(
            written + (chunk * ROWS + row[:, None]) * value + column[None, :],
            mask=real[:, None] & is_value, other=0.0,
        )  # fmt: skip
        x = tl.dot(q, state, input_precision=PRECISION) + tl.dot(scores, new, input_precision=PRECISION)
        tl.store(
            out + (at[:, None] * heads + head) * value + column[None, :], x, mask=real[:, None] & is_value
        )


@jit
def read_back(  # type: ignore[no-untyped-def]
    qkv, g, before, written, d_out, d_qkv, d_key, d_before, d_written, d_total,
    length, heads, key, value, eps, scale,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of `read`: all of the queries', and its part for keys, totals, states, writes."""
    head, chunk, at, real = _chunk_of_program(length, heads, ROWS)
    row, channel = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    q_unit, q_inverse, k, at_key, in_key = _queries_and_keys(
        qkv, at, real, heads, head, key, value, eps, WIDTH
    )
    total, between = _fades(g, at, real, heads, head, DECAY, ROWS)
    q = q_unit * scale
    since = tl.exp(total)[:, None]
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * between
    d_scores = tl.zeros((ROWS, ROWS), tl.float32)
    d_faded = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, value, BLOCK):
        column = first + tl.arange(0, BLOCK)
        is_value = (column < value)[None, :]
        at_state = (chunk * key + channel[:, None]) * value + column[None, :]
        in_state = (channel < key)[:, None] & is_value
        at_new = (chunk * ROWS + row[:, None]) * value + column[None, :]
        state = tl.load(before + at_state, mask=in_state, other=0.0)
        new = tl.load(written + at_new, mask=real[:, None] & is_value, other=0.0)
        dy = tl.load(
            d_out + (at[:, None] * heads + head) * value + column[None, :],
            mask=real[:, None] & is_value, other=0.0,
        ).to(tl.float32)  # fmt: skip
        d_scores += tl.dot(dy, tl.trans(new), input_precision=PRECISION)
        d_faded += tl.dot(dy, tl.trans(state), input_precision=PRECISION)
        x = tl.dot(tl.trans(q * since), dy, input_precision=PRECISION)
        tl.store(d_before + at_state, x, mask=in_state)
        x = tl.dot(tl.trans(scores), dy, input_precision=PRECISION)
        tl.store(d_written + at_new, x, mask=(row >= 0)[:, None] & is_value)
    if DECAY:
        moved = d_scores * scores
        x = tl.sum(moved, 1) - tl.sum(moved, 0) + tl.sum(d_faded * q * since, 1)
        tl.store(d_total + chunk * ROWS + row, x)
    d_scores *= between
    dq = d_faded * since + tl.dot(d_scores, k, input_precision=PRECISION)
    tl.store(d_qkv + at_key, _unit_back(dq * scale, q_unit, q_inverse), mask=in_key)
    dk = tl.dot(tl.trans(d_scores), q, input_precision=PRECISION)
    tl.store(
        d_key + (chunk * ROWS + row[:, None]) * key + channel[None, :],
        dk,
        mask=(row >= 0)[:, None] & (channel < key)[None, :],
    )


@jit
def prepare_back(  # type: ignore[no-untyped-def]
    qkv, g, beta, inverse, before, written, d_key, d_total, d_u, d_after, d_qkv, d_g, d_beta,
    length, heads, key, value, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of `prepare`, adding those of keys and totals from `read_back` and the scan."""
    head, chunk, at, real = _chunk_of_program(length, heads, ROWS)
    row, channel = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    channels = heads * (2 * key + value)
    at_key = at[:, None] * channels + (heads + head) * key + channel[None, :]
    is_key = (channel < key)[None, :]
    in_key = real[:, None] & is_key
    k, k_inverse = _unit(tl.load(qkv + at_key, mask=in_key, other=0.0).to(tl.float32), eps)
    rate = tl.load(beta + at * heads + head, mask=real, other=0.0)
    total, between = _fades(g, at, real, heads, head, DECAY, ROWS)
    since = tl.exp(total)
    last = tl.sum(tl.where(row == ROWS - 1, total, 0.0), 0)
    solve = tl.load(inverse + (chunk * ROWS + row[:, None]) * ROWS + row[None, :])
    back = tl.trans(solve)
    d_w = tl.zeros((ROWS, WIDTH), tl.float32)
    d_faded = tl.zeros((ROWS, WIDTH), tl.float32)
    d_overlap = tl.zeros((ROWS, ROWS), tl.float32)
    d_rate = tl.zeros((ROWS,), tl.float32)
    d_last = 0.0
    for first in range(0, value, BLOCK):
        column = first + tl.arange(0, BLOCK)
        is_value = (column < value)[None, :]
        at_state = (chunk * key + channel[:, None]) * value + column[None, :]
        in_state = (channel < key)[:, None] & is_value
        state = tl.load(before + at_state, mask=in_state, other=0.0)
        d_state = tl.load(d_after + at_state, mask=in_state, other=0.0)
        at_new = (chunk * ROWS + row[:, None]) * value + column[None, :]
        in_new = (row >= 0)[:, None] & is_value
        du = tl.load(d_u + at_new, mask=in_new, other=0.0)
        new = tl.load(written + at_new, mask=in_new, other=0.0)
        d_w -= tl.dot(du, tl.trans(state), input_precision=PRECISION)
        d_faded += tl.dot(new, tl.trans(d_state), input_precision=PRECISION)
        d_last += tl.sum(tl.sum(state * d_state, 1), 0)
        at_value = at[:, None] * channels + 2 * heads * key + head * value + column[None, :]
        v = tl.load(qkv + at_value, mask=real[:, None] & is_value, other=0.0).to(tl.float32)
        u = tl.dot(solve, v * rate[:, None], input_precision=PRECISION)
        d_new = tl.dot(back, du, input_precision=PRECISION)
        d_overlap -= tl.dot(d_new, tl.trans(u), input_precision=PRECISION)
        d_rate += tl.sum(d_new * v, 1)
        tl.store(d_qkv + at_value, d_new * rate[:, None], mask=real[:, None] & is_value)
    w = tl.dot(solve, k * (rate * since)[:, None], input_precision=PRECISION)
    d_from_start = tl.dot(back, d_w, input_precision=PRECISION)
    d_overlap -= tl.dot(d_from_start, tl.trans(w), input_precision=PRECISION)
    d_overlap = tl.where(row[:, None] > row[None, :], d_overlap * between, 0.0)
    products = tl.dot(k, tl.trans(k), input_precision=PRECISION)
    d_product = d_overlap * products  # of overlap = rate * between * products, but for the rate
    x = tl.sum(d_from_start * k, 1) * since
    d_rate += tl.sum(d_product, 1) + x
    tl.store(d_beta + at * heads + head, d_rate, mask=real)
    to_end = tl.exp(last - total)
    if DECAY:
        moved = d_product * rate[:, None]
        faded = tl.sum(d_faded * k, 1) * to_end
        d_sum = tl.load(d_total + chunk * ROWS + row) + tl.sum(moved, 1) - tl.sum(moved, 0) + x * rate - faded
        d_last = d_last * tl.exp(last) + tl.sum(faded, 0)
        # each g is in the totals of its own token and of all later ones of the chunk
        d_sum = tl.sum(d_sum, 0) - tl.cumsum(d_sum, 0) + d_sum + d_last
        tl.store(d_g + at * heads + head, d_sum, mask=real)
    d_overlap *= rate[:, None]
    dk = tl.load(
        d_key + (chunk * ROWS + row[:, None]) * key + channel[None, :],
        mask=is_key & (row >= 0)[:, None],
        other=0.0,
    )
    dk += d_from_start * (rate * since)[:, None] + d_faded * to_end[:, None]
    dk += tl.dot(d_overlap, k, input_precision=PRECISION)
    dk += tl.dot(tl.trans(d_overlap), k, input_precision=PRECISION)
    tl.store(d_qkv + at_key, _unit_back(dk, k, k_inverse), mask=in_key)
