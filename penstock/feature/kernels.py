"""feature: the replay's kernels, compiled by numba: what one series answers to all requests, in one sweep.

The sweep goes entity by entity, and by position: an event comes in at its place in (time, position), and goes when it
is taken away, so that what lies on the desk is what the next request sees. The desk is cut into chunks, each with its
running sums, and each knows what lies before it. A window is two places on the desk: its sums are a difference, its
least and greatest value those of two parts of chunks and of the whole ones between. A chunk is as large as there may
be chunks, so that a late event and a hot key cost a root.

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
"""A part of those, where a call, and the counting of who holds its arrays, costs more than what it does."""
TIME, KEY, UNITS, EVENT = range(4)
"""What is known of an event; its number only where the key does not say the value."""
SUM, PLACE, LOW, HIGH = UNITS, 4, 5, 6
DESK = 7
"""On the desk the same, but the sum of the units before it, which of its entity's events it is, and the sum of the
squares of the units before it, in two words."""
SPLIT, BASE, COUNT, BEFORE, TOTAL, LOWER, UPPER, BOTTOM, PEAK = range(9)
CHUNK = 9
"""What is known of a chunk: no event of it is earlier than that, nor one before it later; where it lies on the desk;
how many events it holds; what all before it come to: how many, units and squares; its least and its greatest key."""
T, BELOW, AT = range(3)
"""What is known of a request: its time, how many of its entity's events lie below its position, and that."""
HELD, KINDS, UNIT, UPPER_SQUARE, LOWER_SQUARE, LEAST, MOST, FIRST = range(8)
FIELDS = 8
"""What is found of a window: how many events, and how many kinds; the sum of the units, that of their squares in two
words; and of the least value, the greatest and the first their keys, or their events' numbers."""
ENDS = (UNIT, UPPER_SQUARE, LOWER_SQUARE, LEAST, MOST, FIRST)
"""Where the sum, the mean, the deviation, the least, the greatest and the first value are in the end."""
SUMMED, ORDERED, OLDEST, CODED, EXACT = range(5)
"""What is wanted: sums; least and greatest; the first; kinds; and of values their events' numbers."""
_SIGN: Any = np.int64(-(2**63))
_MOST: Any = np.int64(2**63 - 1)
_NOTHING: Any = np.int64(0)
_HALVES = 0.5 ** np.arange(128)
_U32 = np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_ONE, _ZERO = np.uint64(1), np.uint64(0)


@_compiled
def grouped(codes: Any, groups: int) -> Any:
    """Where each group begins, and its members in their order."""
    starts = np.zeros(groups + 1, np.int64)
    for code in codes:
        starts[code + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    free, members = starts[:-1].copy(), np.empty(len(codes), np.int64)
    for i in range(len(codes)):
        members[free[codes[i]]] = i
        free[codes[i]] += 1
    return starts, members


@_compiled
def counted(codes: Any, units: Any, counts: Any) -> int:
    """How many events each entity has; the largest of the units, whatever their sign."""
    for code in codes:
        counts[code] += 1
    largest = 0
    for one in units:
        largest = max(largest, abs(one))
    return largest


@_compiled
def lay(ends: Any, free: Any, columns: Any, floats: bool, rows: Any) -> None:
    """Put what there is of the events [first, last) beside each other, by entity. `free`: where each entity's go.
    Of floats the keys are integers in the same order."""
    codes, times, keys, units = columns
    for i in range(ends[0], ends[1]):
        at = free[codes[i]]
        free[codes[i]] += 1
        rows[at, TIME] = times[i]
        if len(keys):
            rows[at, KEY] = _turned(keys[i]) if floats else keys[i]
        if len(units):
            rows[at, UNITS] = units[i]
        if rows.shape[1] > EVENT:
            rows[at, EVENT] = i


@_compiled
def _turned(bits: Any) -> Any:
    """The bits of a float as an integer that is ordered as it is, and back."""
    return bits ^ ((bits >> 63) & _MOST)


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
def _plus(high: int, low: int, more_high: int, more_low: int) -> Any:
    """A sum of two numbers of two words. Low words are unsigned; the carry is seen by comparing them as such."""
    below = low + more_low
    return high + more_high + ((below ^ _SIGN) < (low ^ _SIGN)), below


@_compiled
def _minus(high: int, low: int, less_high: int, less_low: int) -> Any:
    """Their difference."""
    return high - less_high - ((low ^ _SIGN) < (less_low ^ _SIGN)), low - less_low


@_compiled
def _split(desk: Any, chunks: Any, number: int, c: int, size: int, t_ms: int) -> None:
    """Make two chunks of a full one, which an event of that time is to go to: halves, or where it would be the newest
    of all, the second one empty."""
    base, new, cut = chunks[BASE, c], number * (size + 8), size
    if c < number - 1 or t_ms < desk[TIME, base + size - 1]:
        cut, t_ms = size // 2, desk[TIME, base + size // 2]
    middle = base + cut
    for k in range(number, c, -1):
        for part in range(CHUNK):
            chunks[part, k] = chunks[part, k - 1]
    for part in range(DESK):
        for i in range(size - cut):
            desk[part, new + i] = desk[part, middle + i]
    for i in range(size - cut + 1):
        desk[SUM, new + i] = desk[SUM, middle + i] - desk[SUM, middle]
        desk[HIGH, new + i], desk[LOW, new + i] = _minus(
            desk[HIGH, middle + i], desk[LOW, middle + i], desk[HIGH, middle], desk[LOW, middle]
        )
    chunks[COUNT, c] = cut
    _after(chunks, c + 1, c + 2, cut, desk[SUM, middle], desk[HIGH, middle], desk[LOW, middle])
    chunks[SPLIT, c + 1], chunks[BASE, c + 1], chunks[COUNT, c + 1] = t_ms, new, size - cut
    _bound(desk, chunks, c)
    _bound(desk, chunks, c + 1)


@_compiled
def _bound(desk: Any, chunks: Any, c: int) -> None:
    """Find a chunk's least and greatest key anew."""
    base = chunks[BASE, c]
    chunks[BOTTOM, c], chunks[PEAK, c] = _keys(desk, KEY, base, base + chunks[COUNT, c], _MOST, _SIGN, KEY)


@_inlined
def _keys(parts: Any, low: int, first: int, last: int, least: int, most: int, high: int) -> Any:
    """The least and the greatest of some and of what lies at [first, last), which says its least and its greatest."""
    for at in range(np.uint64(first), np.uint64(last)):
        least, most = min(least, parts[low, at]), max(most, parts[high, at])
    return least, most


@_compiled
def _after(chunks: Any, first: int, last: int, count: int, units: int, high: int, low: int) -> None:
    """There is so much more before the chunks [first, last)."""
    for c in range(first, last):
        chunks[BEFORE, c] += count
        chunks[TOTAL, c] += units
        chunks[UPPER, c], chunks[LOWER, c] = _plus(chunks[UPPER, c], chunks[LOWER, c], high, low)


@_inlined
def _come(
    desk: Any, chunks: Any, alive: Any, number: int, size: int, rows: Any, begin: int, first: int, last: int,
    summed: bool,
) -> int:  # fmt: skip
    """The events [first, last) of the entity whose begin there come to their places, each behind those of its time.
    How many chunks there are then."""
    place = first
    while place < last:
        place = _follow(desk, chunks, alive, number - 1, size, rows, begin, place, last, summed)
        if place < last:
            number = _insert(desk, chunks, alive, number, size, rows, begin, place, summed)
            place += 1
    return number


@_inlined
def _follow(
    desk: Any, chunks: Any, alive: Any, c: int, size: int, rows: Any, begin: int, place: int, last: int, summed: bool
) -> int:  # fmt: skip
    """Events that come behind all others, as most do, go to the last chunk as long as it has room. The first that did
    not."""
    base, at = chunks[BASE, c], np.uint64(chunks[BASE, c] + chunks[COUNT, c])
    end, newest = np.uint64(base + size), chunks[SPLIT, c]
    if at > np.uint64(base):
        newest = desk[TIME, at - _ONE]
    bottom, peak = chunks[BOTTOM, c], chunks[PEAK, c]
    total, high, low = desk[SUM, at], desk[HIGH, at], desk[LOW, at]
    while place < last and at < end:
        row = np.uint64(begin + place)
        t_ms, key = rows[row, TIME], rows[row, KEY]
        if t_ms < newest:
            break
        newest, bottom, peak = t_ms, min(bottom, key), max(peak, key)
        desk[TIME, at], desk[KEY, at], desk[PLACE, at] = t_ms, key, place
        if rows.shape[1] > EVENT:
            desk[EVENT, at] = rows[row, EVENT]
        place, at = place + 1, at + _ONE
        if summed:
            units = rows[row, UNITS]
            total += units
            high, low = _plus(high, low, *_square(units))
            desk[SUM, at], desk[HIGH, at], desk[LOW, at] = total, high, low
        if len(alive) > 1:
            _alive(alive, key, 1)
    chunks[COUNT, c], chunks[BOTTOM, c], chunks[PEAK, c] = np.int64(at) - base, bottom, peak
    return place


@_compiled
def _insert(
    desk: Any, chunks: Any, alive: Any, number: int, size: int, rows: Any, begin: int, place: int, summed: bool
) -> int:  # fmt: skip
    """An event comes to its place, whatever comes behind it. How many chunks there are then."""
    t_ms, key, c = rows[begin + place, TIME], rows[begin + place, KEY], number - 1
    while c and chunks[SPLIT, c] > t_ms:
        c -= 1
    if chunks[COUNT, c] == size:
        _split(desk, chunks, number, c, size, t_ms)
        number += 1
        c += chunks[SPLIT, c + 1] <= t_ms
    base = chunks[BASE, c]
    end = at = base + chunks[COUNT, c]
    while at > base and desk[TIME, at - 1] > t_ms:
        for part in (TIME, KEY, EVENT, PLACE):
            desk[part, at] = desk[part, at - 1]
        at -= 1
    desk[TIME, at], desk[KEY, at], desk[PLACE, at] = t_ms, key, place
    if rows.shape[1] > EVENT:
        desk[EVENT, at] = rows[begin + place, EVENT]
    chunks[COUNT, c] += 1
    chunks[BOTTOM, c], chunks[PEAK, c] = min(chunks[BOTTOM, c], key), max(chunks[PEAK, c], key)
    units, high, low = _NOTHING, _NOTHING, _NOTHING
    if summed:
        units = rows[begin + place, UNITS]
        high, low = _square(units)
        for i in range(end, at - 1, -1):
            desk[SUM, i + 1] = desk[SUM, i] + units
            desk[HIGH, i + 1], desk[LOW, i + 1] = _plus(desk[HIGH, i], desk[LOW, i], high, low)
    if c + 1 < number:
        _after(chunks, c + 1, number, 1, units, high, low)
    if len(alive) > 1:
        _alive(alive, key, 1)
    return number


@_compiled
def _go(desk: Any, chunks: Any, alive: Any, number: int, t_ms: int, place: int) -> None:
    """An event goes, which was that one of its entity's."""
    c = number - 1
    while c and chunks[SPLIT, c] > t_ms:
        c -= 1
    i = 0
    while i == chunks[COUNT, c] or desk[PLACE, chunks[BASE, c] + i] != place:
        i += 1
        if i >= chunks[COUNT, c]:
            c, i = c - 1, 0
    at, end = chunks[BASE, c] + i, chunks[BASE, c] + chunks[COUNT, c]
    if len(alive) > 1:
        _alive(alive, desk[KEY, at], -1)
    units = desk[SUM, at + 1] - desk[SUM, at]
    high, low = _minus(desk[HIGH, at + 1], desk[LOW, at + 1], desk[HIGH, at], desk[LOW, at])
    for part in (TIME, KEY, EVENT, PLACE):
        for i in range(at, end - 1):
            desk[part, i] = desk[part, i + 1]
    for i in range(at + 1, end):
        desk[SUM, i] = desk[SUM, i + 1] - units
        desk[HIGH, i], desk[LOW, i] = _minus(desk[HIGH, i + 1], desk[LOW, i + 1], high, low)
    chunks[COUNT, c] -= 1
    _bound(desk, chunks, c)
    _after(chunks, c + 1, number, -1, -units, *_minus(_NOTHING, _NOTHING, high, low))


@_inlined
def _chunk(chunks: Any, number: int, near: int, t_ms: int) -> int:
    """The last chunk that may hold what is not later than a time, sought from one on."""
    c = min(near, number - 1)
    while c + 1 < number and chunks[SPLIT, c + 1] <= t_ms:
        c += 1
    while c and chunks[SPLIT, c] > t_ms:
        c -= 1
    return c


@_compiled
def _across(desk: Any, chunks: Any, low: int, high: int, i: int, edge: int, word: Any) -> Any:
    """Where in a chunk begins what is later than an edge, and a word of the least and the greatest key with all that
    lies between there and a place of a later chunk."""
    least, most = word
    base, count, at = chunks[BASE, low], chunks[COUNT, low], 0
    for k in range(np.uint64(base), np.uint64(base + count)):
        at += desk[TIME, k] <= edge
    least, most = _keys(desk, KEY, base + at, base + count, least, most, KEY)
    least, most = _keys(chunks, BOTTOM, low + 1, high, least, most, PEAK)
    return at, _keys(desk, KEY, chunks[BASE, high], chunks[BASE, high] + i, least, most, KEY)


@_compiled
def _first(desk: Any, chunks: Any, c: int, i: int, top: int, key: int, bound: int) -> int:
    """The number of the first event with a key, the least or the greatest of what lies from a place of a chunk on up
    to some place of the `top` one."""
    while True:
        for at in range(chunks[BASE, c] + i, chunks[BASE, c] + chunks[COUNT, c]):
            if desk[KEY, at] == key:
                number: int = desk[EVENT, at]
                return number
        c, i = c + 1, 0
        while c < top and chunks[bound, c] != key:
            c += 1


@_inlined
def _since(t_ms: int, window_ms: int, hop_ms: int) -> Any:
    """The time that what lies in a window is later than."""
    if not window_ms:
        return _SIGN
    edge = t_ms - window_ms
    return edge // hop_ms * hop_ms if hop_ms else edge


@_compiled
def _end(desk: Any, chunks: Any, number: int, near: int, t_ms: int) -> Any:
    """Where what is later than a time begins."""
    c = _chunk(chunks, number, near, t_ms)
    i = chunks[COUNT, c]
    while i and desk[TIME, chunks[BASE, c] + i - 1] > t_ms:
        i -= 1
    return c, i


@_compiled
def _newest(desk: Any, chunks: Any, c: int, i: int, tells: int, j: int, newest: Any) -> None:
    """The time of the newest event before a place, and what tells of the newest ones."""
    for k in range(1, newest.shape[0]):
        while c and not i:
            c -= 1
            i = chunks[COUNT, c]
        at = chunks[BASE, c] + max(i - 1, 0)
        newest[k, j] = desk[tells, at] if i else _NOTHING
        if k == 1:
            newest[0, j] = desk[TIME, at] if i else _NOTHING
        i = max(i - 1, 0)


@_compiled
def _ends(desk: Any, chunks: Any, c: int, i: int, top: int, wanted: Any, span: int, j: int, out: Any) -> None:
    """What tells of the values at the ends of what lies from a place on up to one of the `top` chunk: of the least and
    the greatest, whose keys were found, and of the first."""
    if wanted[ORDERED] and wanted[EXACT] and out[HELD, span, j]:
        out[LEAST, span, j] = _first(desk, chunks, c, i, top, out[LEAST, span, j], BOTTOM)
        out[MOST, span, j] = _first(desk, chunks, c, i, top, out[MOST, span, j], PEAK)
    while i == chunks[COUNT, c] and c < top:
        c, i = c + 1, 0
    if wanted[OLDEST]:
        out[FIRST, span, j] = desk[EVENT if wanted[EXACT] else KEY, chunks[BASE, c] + i]


@_compiled
def _answer(
    whose: Any, events: Any, leaving: Any, requests: Any, spans: Any, wanted: Any, state: Any, size: int, out: Any,
    newest: Any,
) -> None:  # fmt: skip
    """Answer the requests of some entities, each span from the one before. Not in parts: to pass an array on costs more
    than what is done with it here."""
    starts, rows = events
    leavers, places, until = leaving
    asked, asks = requests
    desk, chunks, lows, stamps, alive = state
    for entity in range(whose[0], whose[1]):
        begin, came, gone, number = starts[entity], 0, leavers[entity], 1
        for j in range(asked[entity], asked[entity + 1]):
            number = _come(
                desk, chunks, alive, number, size, rows, begin, came, asks[j, BELOW], wanted[SUMMED]
            )
            came = asks[j, BELOW]
            while gone < leavers[entity + 1] and until[gone] < asks[j, AT]:
                _go(desk, chunks, alive, number, rows[begin + places[gone], TIME], places[gone])
                gone += 1
            t_ms, (c, i) = asks[j, T], _end(desk, chunks, number, lows[-1], asks[j, T])
            lows[-1] = top = c
            z, least, most = chunks[BASE, top] + i, _MOST, _SIGN
            if newest.shape[0]:
                _newest(desk, chunks, c, i, EVENT if wanted[EXACT] else KEY, j, newest)
            for span in range(spans.shape[1]):
                edge = _since(t_ms, spans[0, span], spans[1, span])
                low, base = 0 if number == 1 else _chunk(chunks, number, lows[span], edge), chunks[BASE, c]
                if low < c:
                    i, (least, most) = _across(desk, chunks, low, c, i, edge, (least, most))
                    c, base = low, chunks[BASE, low]
                while i and desk[TIME, np.uint64(base + i - 1)] > edge:
                    i -= 1
                    key = desk[KEY, np.uint64(base + i)]
                    least, most = min(least, key), max(most, key)
                a, lows[span] = base + i, c
                out[HELD, span, j] = (
                    z - a - chunks[BASE, top] + base + chunks[BEFORE, top] - chunks[BEFORE, c]
                )
                if wanted[SUMMED]:
                    out[UNIT, span, j] = desk[SUM, z] - desk[SUM, a] + chunks[TOTAL, top] - chunks[TOTAL, c]
                    high, below = _plus(desk[HIGH, z], desk[LOW, z], chunks[UPPER, top], chunks[LOWER, top])
                    high, below = _minus(high, below, desk[HIGH, a], desk[LOW, a])
                    out[UPPER_SQUARE, span, j], out[LOWER_SQUARE, span, j] = _minus(
                        high, below, chunks[UPPER, c], chunks[LOWER, c]
                    )
                if wanted[ORDERED]:
                    out[LEAST, span, j], out[MOST, span, j] = least, most
                if wanted[OLDEST] or wanted[EXACT]:
                    _ends(desk, chunks, c, i, top, wanted, span, j, out)
            if wanted[CODED]:
                _kinds(desk, chunks, top, z - chunks[BASE, top], stamps, alive[-1], j, out)
        _clear(desk, chunks, alive, rows, begin, begin + came)


@_compiled
def _kinds(desk: Any, chunks: Any, c: int, i: int, stamps: Any, most: int, j: int, out: Any) -> None:
    """How many different codes each span holds: one walk down from the end, which stops when it has met all that
    there are."""
    count, seen = 0, 0
    for span in range(out.shape[1]):
        while count < most and seen < out[HELD, span, j]:
            while not i:
                c -= 1
                i = chunks[COUNT, c]
            i, seen = i - 1, seen + 1
            code = desk[KEY, chunks[BASE, c] + i]
            count += stamps[code] != j
            stamps[code] = j
        out[KINDS, span, j] = count


@_compiled
def _alive(alive: Any, code: int, one: int) -> None:
    """One more or less of a code is held. `alive`: how many of each, and at its end of how many there are some."""
    alive[-1] -= alive[code] > 0
    alive[code] += one
    alive[-1] += alive[code] > 0


@_compiled
def _clear(desk: Any, chunks: Any, alive: Any, rows: Any, first: int, last: int) -> None:
    """Clear the desk of an entity's events, which came from [first, last)."""
    desk[SUM, 0] = desk[LOW, 0] = desk[HIGH, 0] = 0
    for part in range(CHUNK):
        chunks[part, 0] = 0
    chunks[SPLIT, 0], chunks[BOTTOM, 0], chunks[PEAK, 0] = _SIGN, _MOST, _SIGN
    if len(alive) > 1:
        alive[-1] = 0
        for i in range(first, last):
            alive[rows[i, KEY]] = 0


@_compiled
def asks(codes: Any, entities: int, requests: Any, whose: Any, since: Any) -> Any:
    """Requests by entity and position: where each entity's begin, what is known of each, and where each one is. Those
    of nobody are of one more entity, which has no events."""
    t_ms, o = requests
    starts, held = np.zeros(entities + 2, np.int64), np.zeros(entities + 1, np.int64)
    for code in codes:
        starts[(code if code >= 0 else entities) + 1] += 1
    for entity in range(entities + 1):
        starts[entity + 1] += starts[entity]
    free, place = starts[:-1].copy(), np.empty(len(codes), np.uint32)
    known = np.empty((len(codes), 3), np.int64)
    at = 0
    for i in range(len(codes)):
        while at < len(since) and since[at] < o[i]:
            held[whose[at]] += 1
            at += 1
        code = codes[i] if codes[i] >= 0 else entities
        j = free[code]
        free[code] += 1
        known[j, T], known[j, BELOW], known[j, AT], place[i] = t_ms[i], held[code], o[i], j
    return starts, known, place


@_compiled
def put(column: Any, place: Any, room: Any) -> None:
    """Bring a column in the order of the requests. `room`: for a copy, which is near then."""
    for i in range(len(place)):
        room[i] = column[i]
    for i in range(len(place)):
        column[i] = room[place[i]]


@_compiled
def sweep(
    whose: Any, events: Any, leaving: Any, requests: Any, spans: Any, wanted: Any, codes: int, size: int, out: Any,
    newest: Any,
) -> None:  # fmt: skip
    """Find what the requests of the entities [first, last) of one series ask for, `whose`.

    `events` are (starts, rows): by entity and position; `leaving` (starts, places in their entity, until): those that
    are taken away, by entity and position; `requests` (starts, rows): by entity and position; `spans` the windows,
    the shortest first, and their hops: 0 is all history, and none. With kinds `wanted`, keys are codes below `codes`.
    `size`: that of a chunk where events are few. `out`: by field, span and request; the ends where anything is held.
    `newest`: by request the newest event's time, and what tells of the newest ones; 0 for none.
    """
    starts, most = events[0], 0
    for entity in range(whose[0], whose[1]):
        most = max(most, starts[entity + 1] - starts[entity])
    while 4 * size * size < most:
        size *= 2
    room = 1 if most <= size else most // (size // 2) + 3
    chunks, desk = np.zeros((CHUNK, room), np.int64), np.empty((DESK, room * (size + 8)), np.int64)
    stamps, alive = np.full(codes, -1, np.int64), np.zeros(codes + 1, np.int64)
    _clear(desk, chunks, alive, events[1], 0, 0)
    state = (desk, chunks, np.zeros(spans.shape[1] + 1, np.int64), stamps, alive)
    _answer(whose, events, leaving, requests, spans, wanted, state, size, out, newest)


@_compiled
def finish(ends: Any, out: Any, floating: Any, newest: Any, asked: Any, quantum: float, floats: bool) -> None:
    """What the requests [first, last) of a sweep are told, in the room of what it is made of: by span and field of
    ENDS what is `asked` for. `floating`: the same room."""
    first, last = ends
    for span in range(out.shape[1]):
        held = out[HELD, span, first:last]
        if asked[span, 0] or asked[span, 1] or asked[span, 2]:
            _moments(held, out[:, span, first:last], quantum, asked[span, 2], floating[:, span, first:last])
        for k in range(3, len(ENDS)):
            if asked[span, k]:
                _said(out[ENDS[k], span, first:last], held, floats, ENDS[k] != FIRST)
    for k in range(1, newest.shape[0]):
        _said(newest[k, first:last], newest[k, first:last], floats, False)


@_compiled
def _moments(held: Any, parts: Any, quantum: float, deviate: bool, found: Any) -> None:
    """Sums, means and, where it is asked for, deviations."""
    for i in range(len(held)):
        n, units = held[i], parts[UNIT, i]
        high, low = parts[UPPER_SQUARE, i], parts[LOWER_SQUARE, i]
        if deviate:
            found[LOWER_SQUARE, i] = math.sqrt(_variance(n, units, high, low)) * quantum if n > 1 else 0.0
        found[UNIT, i], found[UPPER_SQUARE, i] = units * quantum, _mean(units, n) * quantum if n else 0.0


@_compiled
def _said(keys: Any, held: Any, floats: bool, equal: bool) -> None:
    """The bits of the values that keys say, in their room; 0 where nothing is held. `equal`: 0.0 for -0.0."""
    for i in range(len(held)):
        bits = _turned(keys[i]) if floats else keys[i]
        keys[i] = bits if held[i] and not (equal and floats and bits == _SIGN) else _NOTHING
