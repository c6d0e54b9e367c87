"""feature: the replay's kernels, compiled by numba: what one series answers to all requests, in one sweep.

An entity's events are known up front, so each has its rank in (time, position) before the sweep begins. The
sweep goes by position: an event is held from its own on, until it is taken away. A request reads the ranks between its
windows' edges. Where an entity has many, they are summed up in blocks and a binary tree over the blocks, so that a late
event and a hot key cost a logarithm.

Everything is an integer until the last step, and that is one correctly rounded division.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.cpython.unsafe import numbers

leading_zeros: Any = numbers.leading_zeros
"""The machine's own count, where the code is compiled."""


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled on its first call; kept beside the source or in the user's cache, where one can be written."""
    try:
        return njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # nowhere to keep it: an installation that is read-only, and no home
        return njit(error_model="numpy", nogil=True)(function)


_inlined = njit(error_model="numpy", nogil=True, forceinline=True)
"""A part of those, where a call costs more than what it does."""
BITS, FEW_BITS = 4, 9
"""A block is 2**BITS ranks, small enough to scan; fewer than 2**FEW_BITS are one block, and need no tree."""
HELD, TOTAL, LOW, HIGH, LEAST, MOST, FIRST, KINDS, LEAST_KEY, MOST_KEY = *range(8), 6, 7
"""What a node says of its ranks: how many are held, the sum of their units, the sum of squares in two words,
the ranks of the least and of the greatest, of equal ones the first, and their keys. What is found of a window begins
with the same, but goes on with the oldest event, and how many kinds there are."""
FIELDS = 8
TIME, EVENT, KEY, UNITS, RANK = range(5)
"""What is known of an event; on the desk by rank, and then the rank by arrival. A rank is held for a request, if its
event is one of those below the request's position; one that is taken away is none of them any more."""
ROW, DESK = 4, 5
T, BELOW, AT = range(3)
"""What is known of a request: its time, how many events lie below its position, and that."""
_SIGN = np.int64(-(2**63))
_NONE, _MOST, _ZERO_ = np.int64(2**62), np.int64(2**63 - 1), np.int64(0)
_NOTHING = (_ZERO_, _ZERO_, _ZERO_, _ZERO_, _NONE, _NONE, _MOST, _SIGN)
_HALVES = 0.5 ** np.arange(128)
_U32 = np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_ONE, _ZERO = np.uint64(1), np.uint64(0)


@_compiled
def grouped(codes: Any, groups: int) -> Any:
    """Where each group begins, and its members in their order; members of group -1 are in none."""
    starts = np.zeros(groups + 1, np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    free, members = starts[:-1].copy(), np.empty(starts[groups], np.int64)
    for i in range(len(codes)):
        code = codes[i]
        if code >= 0:
            members[free[code]] = i
            free[code] += 1
    return starts, members


@_compiled
def lay(ends: Any, free: Any, columns: Any, rows: Any) -> None:
    """Put what there is of the events [first, last) beside each other, by entity. `free`: where each entity's go."""
    codes, times, keys, units = columns
    for i in range(ends[0], ends[1]):
        at = free[codes[i]]
        free[codes[i]] += 1
        rows[at, TIME], rows[at, EVENT], rows[at, KEY], rows[at, UNITS] = times[i], i, keys[i], units[i]


@_compiled
def _product(a: Any, b: Any) -> Any:
    """The 128 bits of a product, as (high, low)."""
    a1, a0, b1, b0 = a >> _U32, a & _LOW32, b >> _U32, b & _LOW32
    low, cross, other = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> _U32) + (cross & _LOW32) + (other & _LOW32)
    high = a1 * b1 + (cross >> _U32) + (other >> _U32) + (middle >> _U32)
    return high, (middle << _U32) | (low & _LOW32)


@_compiled
def _digit(above: Any, below: Any, divisor: Any) -> Any:
    """One digit of 32 bits of a long division, and what is left; the divisor's first bit is set."""
    first, second = divisor >> _U32, divisor & _LOW32
    digit = above // first
    rest = above - digit * first
    while digit > _LOW32 or digit * second > ((rest << _U32) | below):
        digit -= _ONE
        rest += first
        if rest > _LOW32:
            break
    return digit, ((above << _U32) | below) - digit * divisor


@_compiled
def _divided_short(number: Any, divisor: Any) -> float:
    """As `divided`, of 64 bits by 32: the quotient is two digits of what the machine divides by itself."""
    if not number:
        return 0.0
    shift, more = np.uint64(leading_zeros(number)), np.uint64(63 - leading_zeros(divisor))
    number <<= shift
    first = number // divisor
    rest = (number - first * divisor) << more
    second = rest // divisor
    quotient = (first << more) + second
    if rest != second * divisor:
        quotient |= _ONE
    ratio: float = float(quotient) * _HALVES[shift + more]
    return ratio


@_compiled
def divided(high: Any, low: Any, divisor: Any) -> float:
    """A number of 126 bits by one of 63, correctly rounded, as Python divides integers.

    Both are shifted until their first bits stand in fixed places. Then the quotient has 63 or 64 bits, of
    which a float keeps 53; whether anything is left over goes into the last one, and the conversion rounds.
    """
    if not high and divisor <= _LOW32:
        short: float = _divided_short(low, divisor)
        return short
    up = leading_zeros(divisor)
    shift = leading_zeros(high) if high else 64 + leading_zeros(low)
    shift -= 1
    if shift >= 64:
        high, low = low << np.uint64(shift - 64), _ZERO
    elif shift > 0:
        high, low = (high << np.uint64(shift)) | (low >> np.uint64(64 - shift)), low << np.uint64(shift)
    divisor <<= np.uint64(up)
    first, rest = _digit(high, low >> _U32, divisor)
    second, rest = _digit(rest, low & _LOW32, divisor)
    quotient = (first << _U32) | second
    if rest:
        quotient |= _ONE
    return math.ldexp(float(quotient), up - shift)


@_compiled
def _mean(total: int, n: int) -> float:
    """total / n as Python divides integers."""
    if -(2**53) <= total <= 2**53:
        return np.float64(total) / np.float64(n)
    quotient = divided(_ZERO, np.uint64(abs(total)), np.uint64(n))
    return float(-quotient if total < 0 else quotient)


@_compiled
def _variance(n: int, total: int, high: int, low: int) -> float:
    """(n Σx² - (Σx)²) / (n (n - 1)) as Python divides integers."""
    count, sum_ = np.uint64(n), np.uint64(abs(total))
    if not high and low >= 0 and float(low) * float(n) < 2.0**63:
        return float(divided(_ZERO, count * np.uint64(low) - sum_ * sum_, count * (count - _ONE)))
    above, below = _product(count, np.uint64(low))
    above += count * np.uint64(high)
    less_above, less_below = _product(sum_, sum_)
    if below < less_below:
        above -= _ONE
    variance: float = divided(above - less_above, below - less_below, count * (count - _ONE))
    return variance


@_compiled
def _square(units: int) -> Any:
    if -(2**31) < units < 2**31:
        return np.int64(0), np.int64(units * units)
    size = np.uint64(abs(units))
    high, low = _product(size, size)
    return np.int64(high), np.int64(low)


@_compiled
def _less(key: int, rank: int, other_key: int, other: int) -> bool:
    """Whether a key is less than another, or as little and further ahead."""
    return key < other_key or (key == other_key and rank < other)


@_compiled
def _more(key: int, rank: int, other_key: int, other: int) -> bool:
    """Whether a key is greater than another, or as great and further ahead."""
    return key > other_key or (key == other_key and rank < other)


@_compiled
def _with_node(word: Any, tree: Any, node: int) -> Any:
    """A word, and what a node says. Low words are unsigned; the carry is seen by comparing them as such."""
    held, total, low, high, least, most, least_key, most_key = word
    before = low
    low += tree[node, LOW]
    high += tree[node, HIGH] + ((low ^ _SIGN) < (before ^ _SIGN))
    if _less(tree[node, LEAST_KEY], tree[node, LEAST], least_key, least):
        least, least_key = tree[node, LEAST], tree[node, LEAST_KEY]
    if _more(tree[node, MOST_KEY], tree[node, MOST], most_key, most):
        most, most_key = tree[node, MOST], tree[node, MOST_KEY]
    return held + tree[node, HELD], total + tree[node, TOTAL], low, high, least, most, least_key, most_key


@_compiled
def _with_rank(word: Any, desk: Any, rank: int, below: int, wanted: Any) -> Any:
    """A word, and one rank, if it is held."""
    held, total, low, high, least, most, least_key, most_key = word
    if desk[EVENT, rank] < below:
        held += 1
        if wanted[0]:
            units = desk[UNITS, rank]
            square_high, square_low = _square(units)
            total += units
            before = low
            low += square_low
            high += square_high + ((low ^ _SIGN) < (before ^ _SIGN))
        if wanted[1]:
            key = desk[KEY, rank]
            if _less(key, rank, least_key, least):
                least, least_key = rank, key
            if _more(key, rank, most_key, most):
                most, most_key = rank, key
    return held, total, low, high, least, most, least_key, most_key


@_compiled
def _with_ranks(word: Any, desk: Any, first: int, last: int, below: int, wanted: Any) -> Any:
    """A word, and what is held of the ranks [first, last)."""
    for rank in range(first, last):
        word = _with_rank(word, desk, rank, below, wanted)
    return word


@_compiled
def _with_blocks(word: Any, tree: Any, left: int, right: int) -> Any:
    """A word, and what the leaves [left, right) say."""
    while left < right:
        if left & 1:
            word = _with_node(word, tree, left)
            left += 1
        if right & 1:
            right -= 1
            word = _with_node(word, tree, right)
        left >>= 1
        right >>= 1
    return word


@_compiled
def _with_slice(
    word: Any, tree: Any, desk: Any, blocks: Any, low: int, high: int, below: int, wanted: Any
) -> Any:
    """A word, and what is held of the ranks [low, high)."""
    bits, size = blocks
    left, right = ((low - 1) >> bits) + 1, high >> bits
    if left >= right:
        return _with_ranks(word, desk, low, high, below, wanted)
    word = _with_ranks(word, desk, low, left << bits, below, wanted)
    word = _with_ranks(word, desk, right << bits, high, below, wanted)
    return _with_blocks(word, tree, left + size, right + size)


@_compiled
def _put(tree: Any, node: int, word: Any) -> None:
    """What a node says from now on."""
    tree[node, HELD], tree[node, TOTAL], tree[node, LOW], tree[node, HIGH] = word[:4]
    tree[node, LEAST], tree[node, MOST], tree[node, LEAST_KEY], tree[node, MOST_KEY] = word[4:]


@_compiled
def _mend(tree: Any, desk: Any, blocks: Any, stale: Any, count: int, below: int, wanted: Any) -> None:
    """Sum up the first `count` blocks of `stale` anew, and level by level what stands above them."""
    bits, size = blocks
    for i in range(count):
        first = stale[i] << bits
        stale[i] += size
        _put(tree, stale[i], _with_ranks(_NOTHING, desk, first, first + (1 << bits), below, wanted))
    while count and stale[0] > 1:
        kept = 0
        for i in range(count):
            node = stale[i] >> 1
            if not kept or stale[kept - 1] != node:
                word = _with_node(_NOTHING, tree, 2 * node)
                _put(tree, node, _with_node(word, tree, 2 * node + 1))
                stale[kept] = node
                kept += 1
        count = kept


@_compiled
def _newest(tree: Any, desk: Any, blocks: Any, rank: int, below: int) -> int:
    """The greatest rank held below one; -1: none."""
    bits, size = blocks
    while rank & ((1 << bits) - 1):
        rank -= 1
        if desk[EVENT, rank] < below:
            return rank
    node = (rank >> bits) + size
    while not (node & 1 and tree[node - 1, HELD]):
        node >>= 1
        if node <= 1:
            return -1
    node -= 1
    while node < size:
        node = 2 * node + 1
        if not tree[node, HELD]:
            node -= 1
    rank = ((node - size + 1) << bits) - 1
    while desk[EVENT, rank] >= below:
        rank -= 1
    return rank


@_compiled
def _oldest(tree: Any, desk: Any, blocks: Any, rank: int, below: int) -> int:
    """The least rank held from one on; there is one."""
    bits, size = blocks
    while size == 1 or rank & ((1 << bits) - 1):
        if desk[EVENT, rank] < below:
            return rank
        rank += 1
    node = (rank >> bits) + size
    while not tree[node, HELD]:
        while node & 1:
            node >>= 1
        node += 1
    while node < size:
        node = 2 * node
        if not tree[node, HELD]:
            node += 1
    rank = (node - size) << bits
    while desk[EVENT, rank] >= below:
        rank += 1
    return rank


@_compiled
def _above(times: Any, n: int, t_ms: int, near: int) -> int:
    """How many of the first n times are at most `t_ms`: sought from `near` on in steps that double, then halve."""
    low = high = min(near, n)
    step = 1
    if low < n and times[low] <= t_ms:
        while low + step < n and times[low + step] <= t_ms:
            low += step
            step *= 2
        low, high = low + 1, min(low + step, n)
    else:
        while step <= high and times[high - step] > t_ms:
            high -= step
            step *= 2
        low = max(high - step + 1, 0)
    while low < high:
        middle = (low + high) >> 1
        if times[middle] <= t_ms:
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def asks(codes: Any, groups: int, t_ms: Any, o: Any, since: Any) -> Any:
    """Requests by group and position: where each group begins, what is known of each, and where each one is; those of
    group -1 are behind all."""
    starts, members = grouped(codes, groups)
    known, place = np.empty((3, len(members)), np.int64), np.full(len(codes), len(members))
    below = np.empty(len(codes), np.int64)
    near = 0
    for i in range(len(codes)):
        below[i] = near = _above(since, len(since), o[i] - 1, near)
    for j in range(len(members)):
        i = members[j]
        known[T, j], known[BELOW, j], known[AT, j], place[i] = t_ms[i], below[i], o[i], j
    return starts, known, place


@_compiled
def _in_order(times: Any, order: Any, late: Any) -> None:
    """`order`: the places of times, which came by position, by (time, position). Those that came in order are merged
    with the few that are late, which are sorted."""
    kept, behind, latest = 0, 0, times[0]
    for i in range(len(times)):
        if times[i] >= latest:
            latest = times[i]
            order[kept] = i
            kept += 1
        else:
            late[behind] = i
            behind += 1
    if not behind:
        return
    by_time = late[:behind][np.argsort(times[late[:behind]], kind="mergesort")]
    rank = len(times)
    for one in by_time[::-1]:
        while kept:
            other = order[kept - 1]
            if times[other] < times[one] or (times[other] == times[one] and other < one):
                break
            kept -= 1
            rank -= 1
            order[rank] = other
        rank -= 1
        order[rank] = one


@_compiled
def _lay(rows: Any, desk: Any, tree: Any) -> Any:
    """Lay an entity's events out by rank, none of them held; its blocks: of how many bits, and how many."""
    n, order = len(rows), desk[EVENT]
    _in_order(rows[:, TIME], order, desk[RANK])
    for rank in range(n):
        i = order[rank]
        desk[RANK, i] = rank
        desk[TIME, rank], desk[EVENT, rank] = rows[i, TIME], rows[i, EVENT]
        desk[KEY, rank], desk[UNITS, rank] = rows[i, KEY], rows[i, UNITS]
    bits, size = FEW_BITS, 1
    if n >> bits:
        bits = BITS
        while size <= n >> bits:
            size <<= 1
        desk[EVENT, n : size << bits] = _NONE
        for node in range(2 * size):
            _put(tree, node, _NOTHING)
    return bits, size


@_inlined
def _moved(desk: Any, rank: int, one: int, bits: int, stale: Any, count: int, alive: Any) -> int:
    """An event is held from now on (`one` is 1), or no longer (-1). `stale`: the blocks that are to be summed up anew,
    `count` of them; `alive`: how many of each code are held, and at its end how many codes that are."""
    if len(alive) > 1:
        code = desk[KEY, rank]
        alive[-1] -= alive[code] > 0
        alive[code] += one
        alive[-1] += alive[code] > 0
    block = rank >> bits
    if count and stale[count - 1] == block:
        return count
    stale[count] = block
    return count + 1


@_inlined
def _walked(word: Any, desk: Any, rank: int, edge: int, below: int, wanted: Any) -> Any:
    """A word, and what is held below a rank and later than an edge; where that begins."""
    while rank and desk[TIME, rank - 1] > edge:
        rank -= 1
        word = _with_rank(word, desk, rank, below, wanted)
    return word, rank


@_compiled
def _read(
    asks: Any, j: int, n: int, spans: Any, tree: Any, desk: Any, blocks: Any, wanted: Any, lows: Any, out: Any
) -> None:
    """What all spans of one request hold, each from the one before. `lows`: where they begin, and where they end, of
    the request before as of this one."""
    times, word, t_ms = desk[TIME], _NOTHING, asks[T, j]
    lows[-1] = upto = _above(times, n, t_ms, lows[-1])
    for span in range(spans.shape[1]):
        edge: Any = _SIGN
        if spans[0, span]:
            edge = t_ms - spans[0, span]
            if spans[1, span]:
                edge = edge // spans[1, span] * spans[1, span]
        if blocks[1] == 1:
            word, low = _walked(word, desk, upto, edge, asks[BELOW, j], wanted)
        else:
            low = _above(times, upto, edge, lows[span])
            word = _with_slice(word, tree, desk, blocks, low, upto, asks[BELOW, j], wanted)
        lows[span] = upto = low
        held, total, squares_low, squares_high, least, most, _, _ = word
        out[HELD, span, j] = held
        if wanted[0]:
            out[TOTAL, span, j], out[LOW, span, j], out[HIGH, span, j] = total, squares_low, squares_high
        if wanted[1] and held:
            out[LEAST, span, j], out[MOST, span, j] = desk[wanted[4], least], desk[wanted[4], most]
        if wanted[2] and held:
            out[FIRST, span, j] = desk[EVENT, _oldest(tree, desk, blocks, low, asks[BELOW, j])]


@_compiled
def _kinds(desk: Any, below: int, counted: Any, stamp: int, lows: Any, most: int, out: Any) -> None:
    """How many different codes each slice [low, high) holds: one walk down from the end, which stops when it
    has met all that there are."""
    count, rank = 0, lows[-1]
    for span in range(len(lows) - 1):
        while rank > lows[span] and count < most:
            rank -= 1
            if desk[EVENT, rank] < below and counted[desk[KEY, rank]] != stamp:
                counted[desk[KEY, rank]] = stamp
                count += 1
        out[KINDS, span, stamp] = count


@_compiled
def nothing(out: Any, newest: Any, first: int, last: int) -> None:
    """What is found of an entity without events, for the requests [first, last)."""
    out[HELD, :, first:last] = out[TOTAL, :, first:last] = out[KINDS, :, first:last] = 0
    newest[:, first:last] = -1


@_compiled
def sweep(
    whose: Any,
    events: Any,
    leaving: Any,
    requests: Any,
    spans: Any,
    wanted: Any,
    codes: int,
    out: Any,
    newest: Any,
) -> None:
    """Answer the requests of the entities [first, last) of one series, `whose`.

    `events` are (starts, rows): by entity and position; `leaving` (starts, places in their entity, until): those that
    are taken away, by entity and position; `requests` (starts, columns): by entity and position;
    `spans` the windows, the shortest first, and their hops: 0 is all history, and none. `wanted`: whether sums, least
    and greatest, first, kinds are; with the last, keys are codes below `codes`; and what tells of the least and the
    greatest, KEY or EVENT. `out`: by field, span and request; `newest`: the newest events by request, -1 for none.
    Where nothing is held, no other fields than HELD, TOTAL and KINDS are said.
    """
    starts, rows = events
    asked, asks = requests
    most = np.max(np.diff(starts[whose[0] : whose[1] + 1])) if whose[1] > whose[0] else 0
    size = 1
    while size <= most >> BITS:
        size <<= 1
    tree, desk = (
        np.zeros((2 * size, FIELDS), np.int64),
        np.zeros((DESK, max(size << BITS, 1 << FEW_BITS)), np.int64),
    )
    counted, alive, stale = (
        np.full(codes, -1, np.int64),
        np.zeros(codes + 1, np.int64),
        np.empty(2 * most, np.int64),
    )
    lows = np.zeros(spans.shape[1] + 1, np.int64)
    for entity in range(whose[0], whose[1]):
        begin, n = starts[entity], starts[entity + 1] - starts[entity]
        if asked[entity] == asked[entity + 1]:
            continue
        if not n:
            nothing(out, newest, asked[entity], asked[entity + 1])
            continue
        blocks = _lay(rows[begin : begin + n], desk, tree)
        at, gone = begin, leaving[0][entity]
        for j in range(asked[entity], asked[entity + 1]):
            count, below = 0, asks[BELOW, j]
            while (blocks[1] > 1 or wanted[3]) and at < begin + n and rows[at, EVENT] < below:
                count = _moved(desk, desk[RANK, at - begin], 1, blocks[0], stale, count, alive)
                at += 1
            while gone < leaving[0][entity + 1] and leaving[2][gone] < asks[AT, j]:
                rank = desk[RANK, leaving[1][gone]]
                desk[EVENT, rank] = _NONE
                count = _moved(desk, rank, -1, blocks[0], stale, count, alive)
                gone += 1
            if blocks[1] > 1:
                _mend(tree, desk, blocks, stale, count, below, wanted)
            _read(asks, j, n, spans, tree, desk, blocks, wanted, lows, out)
            if wanted[3]:
                _kinds(desk, below, counted, j, lows, alive[-1], out)
            high = lows[-1]
            for k in range(len(newest)):
                high = _newest(tree, desk, blocks, high, below) if high >= 0 else high
                newest[k, j] = desk[EVENT, high] if high >= 0 else -1
        if wanted[3]:
            for rank in range(n):
                alive[desk[KEY, rank]] = 0
            alive[-1] = 0


@_compiled
def mean(found: Any, span: int, quantum: float) -> Any:
    """The means of a span: Σx / n, one correctly rounded division."""
    held, total, values = found[HELD, span], found[TOTAL, span], np.zeros(found.shape[2])
    for j in range(len(values)):
        if held[j]:
            values[j] = _mean(total[j], held[j]) * quantum
    return values


@_compiled
def std(found: Any, span: int, quantum: float) -> Any:
    """The deviations of a span."""
    held, total, values = found[HELD, span], found[TOTAL, span], np.zeros(found.shape[2])
    for j in range(len(values)):
        if held[j] > 1:
            variance = _variance(held[j], total[j], found[HIGH, span, j], found[LOW, span, j])
            values[j] = math.sqrt(variance) * quantum
    return values
