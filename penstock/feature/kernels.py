"""feature: the replay's kernels, compiled by numba: what one series answers to all requests, in one sweep.

An entity's events are known up front, so each has its rank in (time, position) before the sweep begins. The
sweep goes by position: an event is held from its own on, until it is taken away. What is held is summed up in
blocks of ranks and a binary tree over the blocks, so that a late event and a hot key cost a logarithm.

Everything is an integer until the last step, and that is one correctly rounded division.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled on its first call; kept beside the source or in the user's cache, where one can be written."""
    try:
        return njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # nowhere to keep it: an installation that is read-only, and no home
        return njit(error_model="numpy", nogil=True)(function)


BITS = 4
"""A block is 2**BITS ranks: small enough to scan, large enough that the tree over the blocks stays small."""
MASK = (1 << BITS) - 1
HELD, TOTAL, LOW, HIGH, LEAST, MOST = range(6)
"""What a node says of its ranks: how many are held, the sum of their units, the sum of squares in two words,
the ranks of the least and of the greatest (-1: none); of equal ones the first."""
FIELDS = 6
FRESH = FIELDS
TIME, SINCE, KEY, UNITS = range(4)
_NEVER = -(2**62)
_SIGN = np.int64(-(2**63))
_NOTHING = (np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(-1), np.int64(-1))
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
def laid(codes: Any, groups: int, times: Any, since: Any, keys: Any, units: Any) -> Any:
    """As `grouped`, and beside each other what there is of each member."""
    starts = np.zeros(groups + 1, np.int64)
    for code in codes:
        starts[code + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    free, members, rows = (
        starts[:-1].copy(),
        np.empty(len(codes), np.int64),
        np.empty((len(codes), 4), np.int64),
    )
    for i in range(len(codes)):
        at = free[codes[i]]
        free[codes[i]] += 1
        members[at] = i
        rows[at, TIME], rows[at, SINCE], rows[at, KEY], rows[at, UNITS] = (
            times[i],
            since[i],
            keys[i],
            units[i],
        )
    return starts, members, rows


@_compiled
def _product(a: Any, b: Any) -> Any:
    """The 128 bits of a product, as (high, low)."""
    a1, a0, b1, b0 = a >> _U32, a & _LOW32, b >> _U32, b & _LOW32
    low, cross, other = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> _U32) + (cross & _LOW32) + (other & _LOW32)
    high = a1 * b1 + (cross >> _U32) + (other >> _U32) + (middle >> _U32)
    return high, (middle << _U32) | (low & _LOW32)


@_compiled
def _leading(word: Any) -> int:
    """How many zeros a word begins with."""
    count, width = 0, 32
    while width:
        if not word >> np.uint64(64 - width):
            word <<= np.uint64(width)
            count += width
        width >>= 1
    return count + (0 if word else 1)


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
def divided(high: Any, low: Any, divisor: Any) -> float:
    """A number of 126 bits by one of 63, correctly rounded, as Python divides integers.

    Both are shifted until their first bits stand in fixed places. Then the quotient has 63 or 64 bits, of
    which a float keeps 53; whether anything is left over goes into the last one, and the conversion rounds.
    """
    if not high and not low:
        return 0.0
    up = _leading(divisor)
    shift = _leading(high) if high else 64 + _leading(low)
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
    above, below = _product(count, np.uint64(low))
    above += count * np.uint64(high)
    less_above, less_below = _product(sum_, sum_)
    if below < less_below:
        above -= _ONE
    variance: float = divided(above - less_above, below - less_below, count * (count - _ONE))
    return variance


@_compiled
def _added(rows: Any, at: int, total: int, high: int, low: int) -> None:
    """Sums put to a row's. Low words are unsigned; the carry is seen by comparing them as such."""
    rows[at, TOTAL] += total
    before = rows[at, LOW]
    after = before + low
    rows[at, LOW] = after
    rows[at, HIGH] += high + ((after ^ _SIGN) < (before ^ _SIGN))


@_compiled
def _taken(rows: Any, at: int, total: int, high: int, low: int) -> None:
    """Sums taken from a row's."""
    rows[at, TOTAL] -= total
    before = rows[at, LOW]
    rows[at, LOW] = before - low
    rows[at, HIGH] -= high + ((before ^ _SIGN) < (low ^ _SIGN))


@_compiled
def _square(units: int) -> Any:
    if -(2**31) < units < 2**31:
        return np.int64(0), np.int64(units * units)
    size = np.uint64(abs(units))
    high, low = _product(size, size)
    return np.int64(high), np.int64(low)


@_compiled
def _before(keys: Any, a: int, b: int) -> bool:
    """Whether rank a is less than rank b, or as little and further ahead."""
    return b < 0 or (a >= 0 and (keys[a] < keys[b] or (keys[a] == keys[b] and a < b)))


@_compiled
def _behind(keys: Any, a: int, b: int) -> bool:
    """Whether rank a is greater than rank b, or as great and further ahead."""
    return b < 0 or (a >= 0 and (keys[a] > keys[b] or (keys[a] == keys[b] and a < b)))


@_compiled
def _hold(
    tree: Any, held: Any, size: int, keys: Any, units: Any, rank: int, summed: bool, ordered: bool
) -> None:
    """A rank is held from now on."""
    held[rank] = True
    leaf = (rank >> BITS) + size
    total, high, low = np.int64(0), np.int64(0), np.int64(0)
    if summed:
        total = units[rank]
        high, low = _square(total)
    node = leaf
    while node:
        tree[node, HELD] += 1
        if summed:
            _added(tree, node, total, high, low)
        node >>= 1
    if ordered:
        node = leaf
        while node and _before(keys, rank, tree[node, LEAST]):
            tree[node, LEAST] = rank
            node >>= 1
        node = leaf
        while node and _behind(keys, rank, tree[node, MOST]):
            tree[node, MOST] = rank
            node >>= 1


@_compiled
def _release(
    tree: Any, held: Any, size: int, keys: Any, units: Any, rank: int, summed: bool, ordered: bool
) -> None:
    """A rank is held no longer."""
    held[rank] = False
    leaf = node = (rank >> BITS) + size
    total, high, low = np.int64(0), np.int64(0), np.int64(0)
    if summed:
        total = units[rank]
        high, low = _square(total)
    while node:
        tree[node, HELD] -= 1
        if summed:
            _taken(tree, node, total, high, low)
        node >>= 1
    if ordered:
        least = most = -1
        for other in range((rank >> BITS) << BITS, ((rank >> BITS) + 1) << BITS):
            if held[other]:
                least = other if _before(keys, other, least) else least
                most = other if _behind(keys, other, most) else most
        tree[leaf, LEAST], tree[leaf, MOST] = least, most
        node = leaf >> 1
        while node:
            a, b = tree[2 * node], tree[2 * node + 1]
            tree[node, LEAST] = a[LEAST] if not _before(keys, b[LEAST], a[LEAST]) else b[LEAST]
            tree[node, MOST] = a[MOST] if not _behind(keys, b[MOST], a[MOST]) else b[MOST]
            node >>= 1


@_compiled
def _with_node(word: Any, tree: Any, node: int, keys: Any, summed: bool, ordered: bool) -> Any:
    """A word, and what a node says."""
    held, total, low, high, least, most = word
    held += tree[node, HELD]
    if summed:
        total += tree[node, TOTAL]
        before = low
        low += tree[node, LOW]
        high += tree[node, HIGH] + ((low ^ _SIGN) < (before ^ _SIGN))
    if ordered:
        least = tree[node, LEAST] if _before(keys, tree[node, LEAST], least) else least
        most = tree[node, MOST] if _behind(keys, tree[node, MOST], most) else most
    return held, total, low, high, least, most


@_compiled
def _with_rank(word: Any, rank: int, keys: Any, units: Any, summed: bool, ordered: bool) -> Any:
    """A word, and one held rank."""
    held, total, low, high, least, most = word
    held += 1
    if summed:
        square_high, square_low = _square(units[rank])
        total += units[rank]
        before = low
        low += square_low
        high += square_high + ((low ^ _SIGN) < (before ^ _SIGN))
    if ordered:
        least = rank if _before(keys, rank, least) else least
        most = rank if _behind(keys, rank, most) else most
    return held, total, low, high, least, most


@_compiled
def _with_slice(
    word: Any, tree: Any, held: Any, size: int, keys: Any, units: Any, ends: Any, summed: bool, ordered: bool
) -> Any:
    """A word, and what is held of the ranks [low, high), the ends."""
    low, high = ends
    while low < high and low & MASK:
        if held[low]:
            word = _with_rank(word, low, keys, units, summed, ordered)
        low += 1
    while low < high and high & MASK:
        high -= 1
        if held[high]:
            word = _with_rank(word, high, keys, units, summed, ordered)
    left, right = (low >> BITS) + size, (high >> BITS) + size
    while left < right:
        if left & 1:
            word = _with_node(word, tree, left, keys, summed, ordered)
            left += 1
        if right & 1:
            right -= 1
            word = _with_node(word, tree, right, keys, summed, ordered)
        left >>= 1
        right >>= 1
    return word


@_compiled
def _cleared(rows: Any, at: int) -> None:
    rows[at, HELD] = rows[at, TOTAL] = rows[at, LOW] = rows[at, HIGH] = 0
    rows[at, LEAST] = rows[at, MOST] = -1


@_compiled
def _newest(tree: Any, held: Any, size: int, below: int) -> int:
    """The greatest rank held below one; -1: none."""
    while below & MASK:
        below -= 1
        if held[below]:
            return below
    node = (below >> BITS) + size
    while not (node & 1 and tree[node - 1, HELD]):
        node >>= 1
        if node <= 1:
            return -1
    node -= 1
    while node < size:
        node = 2 * node + 1
        if not tree[node, HELD]:
            node -= 1
    rank = ((node - size) << BITS) + MASK
    while not held[rank]:
        rank -= 1
    return rank


@_compiled
def _oldest(tree: Any, held: Any, size: int, rank: int) -> int:
    """The least rank held from one on; there is one."""
    while rank & MASK:
        if held[rank]:
            return rank
        rank += 1
    node = (rank >> BITS) + size
    while not tree[node, HELD]:
        while node & 1:
            node >>= 1
        node += 1
    while node < size:
        node = 2 * node
        if not tree[node, HELD]:
            node += 1
    rank = (node - size) << BITS
    while not held[rank]:
        rank += 1
    return rank


@_compiled
def _above(times: Any, n: int, t_ms: int) -> int:
    """How many of the first n times are at most `t_ms`."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if times[middle] <= t_ms:
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def _in_order(times: Any, order: Any) -> None:
    """`order`: the places of times, which came by position, by (time, position)."""
    latest, sorted_ = times[0], True
    for i in range(len(times)):
        sorted_ = sorted_ and times[i] >= latest
        latest = times[i]
        order[i] = i
    if not sorted_:
        order[:] = np.argsort(times, kind="mergesort")


@_compiled
def _lay(rows: Any, begin: int, n: int, desk: Any) -> int:
    """Lay an entity's events out by rank, none of them held; how many blocks the tree is over."""
    tree, held, times, keys, units, order, place, came, since = desk
    for i in range(n):
        came[i], since[i] = rows[begin + i, TIME], rows[begin + i, SINCE]
    _in_order(came[:n], order[:n])
    for rank in range(n):
        i = order[rank]
        place[i] = rank
        times[rank] = came[i]
        keys[rank], units[rank] = rows[begin + i, KEY], rows[begin + i, UNITS]
    size = 1
    while size <= n >> BITS:
        size <<= 1
    for node in range(2 * size):
        _cleared(tree, node)
    held[: size << BITS] = False
    return size


@_compiled
def _advance(
    o: int, n: int, size: int, at: Any, leaving: Any, end: int, desk: Any, alive: Any, wanted: Any
) -> None:
    """Hold what has come below position `o`, and release what is gone by then. `alive`: how many of each code are
    held, and at its end how many codes that are."""
    tree, held, _, keys, units, _, place, _, since = desk
    _, members, until = leaving
    summed, ordered, _, coded, _ = wanted
    while at[0] < n and since[at[0]] < o:
        rank = place[at[0]]
        _hold(tree, held, size, keys, units, rank, summed, ordered)
        if coded:
            alive[-1] += alive[keys[rank]] == 0
            alive[keys[rank]] += 1
        at[0] += 1
    while at[1] < end and until[at[1]] < o:
        rank = place[members[at[1]]]
        _release(tree, held, size, keys, units, rank, summed, ordered)
        if coded:
            alive[keys[rank]] -= 1
            alive[-1] -= alive[keys[rank]] == 0
        at[1] += 1


@_compiled
def _spread(found: Any, request: int, wanted: Any, out: Any) -> None:
    """A request's sums as they are answered. Where nothing has come to those of the span before, its answers hold."""
    held, totals, means, variances, leasts, mosts, _, _, _ = out
    for span in range(len(found)):
        held[request, span] = n = found[span, HELD]
        if wanted[0] and span and n == found[span - 1, HELD] and not found[span, FRESH]:
            totals[request, span] = totals[request, span - 1]
            means[request, span] = means[request, span - 1]
            variances[request, span] = variances[request, span - 1]
        elif wanted[0] and n:
            totals[request, span] = total = found[span, TOTAL]
            means[request, span] = _mean(total, n)
            if n > 1:
                variances[request, span] = _variance(n, total, found[span, HIGH], found[span, LOW])
        if wanted[1]:
            leasts[request, span], mosts[request, span] = found[span, LEAST], found[span, MOST]


@_compiled
def _answer(t_ms: int, n: int, size: int, spans: Any, desk: Any, wanted: Any, lows: Any, found: Any) -> int:
    """What all spans of one request hold, each from the one before where that lies within it; where they end."""
    tree, held, times, keys, units, _, _, _, _ = desk
    windows, hops = spans
    high = upto = _above(times, n, t_ms)
    last_edge, word = t_ms, _NOTHING
    for span in range(len(windows)):
        low, edge = 0, _NEVER
        if windows[span]:
            edge = t_ms - windows[span]
            if hops[span]:
                edge = edge // hops[span] * hops[span]
            low = _above(times, upto if edge <= last_edge else high, edge)
        last_edge, lows[span] = edge, low
        fresh = span == 0 or low > upto
        if fresh:
            word, upto = _NOTHING, high
        ends = (low, upto)
        word = _with_slice(word, tree, held, size, keys, units, ends, wanted[0], wanted[1])
        for field in range(FIELDS):
            found[span, field] = word[field]
        found[span, FRESH], upto = fresh, low
    return int(high)


@_compiled
def _oldest_of(row: Any, tree: Any, held: Any, size: int, lows: Any, found: Any) -> None:
    """The oldest rank of each span that holds any."""
    for span in range(len(row)):
        if found[span, HELD]:
            row[span] = _oldest(tree, held, size, lows[span])


@_compiled
def _newest_of(row: Any, tree: Any, held: Any, size: int, high: int) -> None:
    """The newest ranks below one, newest first."""
    for k in range(len(row)):
        high = _newest(tree, held, size, high)
        if high < 0:
            return
        row[k] = high


@_compiled
def _kinds(
    held: Any, codes: Any, counted: Any, stamp: int, lows: Any, high: int, most: int, out: Any
) -> None:
    """How many different codes each slice [low, high) holds: one walk down from the end, which stops when it
    has met all that there are."""
    found, rank, order = 0, high, np.argsort(-lows)
    for place in order:
        low = lows[place]
        while rank > low and found < most:
            rank -= 1
            if held[rank] and counted[codes[rank]] != stamp:
                counted[codes[rank]] = stamp
                found += 1
        out[place] = found


@_compiled
def _named(row: Any, mine: Any, order: Any) -> None:
    """Ranks as the numbers of their events."""
    for i in range(len(row)):
        if row[i] >= 0:
            row[i] = mine[order[row[i]]]


@_compiled
def _keyed(row: Any, keys: Any) -> None:
    """Ranks as their keys."""
    for i in range(len(row)):
        if row[i] >= 0:
            row[i] = keys[row[i]]


@_compiled
def _forget(alive: Any, codes: Any, n: int) -> None:
    """None of an entity's codes is held any more."""
    for rank in range(n):
        alive[codes[rank]] = 0
    alive[-1] = 0


@_compiled
def _desk(most: int) -> Any:
    """Room for the entity with the most events."""
    room = 1
    while room <= most >> BITS:
        room <<= 1
    return (
        np.empty((2 * room, FIELDS), np.int64), np.zeros(room << BITS, np.bool_),
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64),
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64),
    )  # fmt: skip


@_compiled
def sweep(
    whose: Any, events: Any, leaving: Any, requests: Any, spans: Any, wanted: Any, codes: int, out: Any
) -> None:
    """Answer the requests of the entities [first, last) of one series, `whose`.

    `events` are (starts, members, rows): by entity, in the order of their positions; `leaving` (starts, places in
    their entity, until): those that are taken away, by entity and position; `requests` (starts, members, time,
    position); `spans` (windows, hops): 0 is all history, and none. `wanted`: whether sums, least and greatest, first,
    kinds are; with the last, keys are codes below `codes`; and whether least and greatest are told by their keys, or
    by the events' numbers. `out`: held, total, mean, variance, least, greatest, first and kinds by request and span,
    and the newest by request.
    """
    e_starts, e_members, rows = events
    r_starts, r_members, r_time, r_o = requests
    desk = _desk(np.max(np.diff(e_starts[whose[0] : whose[1] + 1])) if whose[1] > whose[0] else 0)
    counted, alive, at = np.full(codes, -1, np.int64), np.zeros(codes + 1, np.int64), np.zeros(2, np.int64)
    lows, found = np.zeros(len(spans[0]), np.int64), np.zeros((len(spans[0]), FIELDS + 1), np.int64)
    for entity in range(whose[0], whose[1]):
        mine = e_members[e_starts[entity] : e_starts[entity + 1]]
        if r_starts[entity] == r_starts[entity + 1] or not len(mine):
            continue
        size = _lay(rows, e_starts[entity], len(mine), desk)
        at[0], at[1] = 0, leaving[0][entity]
        for request in r_members[r_starts[entity] : r_starts[entity + 1]]:
            _advance(r_o[request], len(mine), size, at, leaving, leaving[0][entity + 1], desk, alive, wanted)
            high = _answer(r_time[request], len(mine), size, spans, desk, wanted, lows, found)
            _spread(found, request, wanted, out)
            if wanted[1] and wanted[4]:
                _keyed(out[4][request], desk[3])
                _keyed(out[5][request], desk[3])
            elif wanted[1]:
                _named(out[4][request], mine, desk[5])
                _named(out[5][request], mine, desk[5])
            if wanted[2]:
                _oldest_of(out[6][request], desk[0], desk[1], size, lows, found)
                _named(out[6][request], mine, desk[5])
            if wanted[3]:
                _kinds(desk[1], desk[3], counted, request, lows, high, alive[-1], out[7][request])
            _newest_of(out[8][request], desk[0], desk[1], size, high)
            _named(out[8][request], mine, desk[5])
        if wanted[3]:
            _forget(alive, desk[3], len(mine))
