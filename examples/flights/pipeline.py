"""Will this flight land more than 15 minutes late? Asked at the scheduled departure, from what is known then."""

from datetime import datetime

from sklearn.ensemble import HistGradientBoostingClassifier

from penstock import (
    Data,
    Event,
    Pipeline,
    better,
    case,
    count,
    every,
    key,
    last,
    last_k,
    loss,
    max,
    mean,
    min,
    missing,
    rate,
    since,
    source,
    std,
    steps,
    sum,
)

# What happens, as it becomes known.


class Flight(Event):
    flight_id: str
    tailnum: str | None = key()
    at: datetime
    carrier: str
    line: str
    origin: str
    dest: str
    route: str
    distance: int
    local_hour: int


class Departure(Event):
    flight_id: str
    tailnum: str | None = key()
    at: datetime
    carrier: str
    line: str
    origin: str
    route: str
    dep_delay: float


class Landing(Event):
    flight_id: str = key()
    tailnum: str | None
    at: datetime
    carrier: str
    line: str
    origin: str
    dest: str
    route: str
    arr_delay: float
    late: bool


class Weather(Event):
    origin: str = key()
    at: datetime
    temp: float | None
    wind_speed: float | None
    precip: float | None
    visib: float | None
    pressure: float | None


class Plane(Event):
    tailnum: str = key()
    year: int | None
    seats: int


flight = source(Flight, id="flight_id", time="at")
departure = source(Departure, id="flight_id", time="at")
landing = source(Landing, id="flight_id", time="at")
weather = source(Weather)
plane = source(Plane, id="tailnum")

# The plan: what the request itself says. All three airports keep New York's time.

NEW_YORK = "America/New_York"
weekday = flight.at.weekday(NEW_YORK)
minute = flight.at.minute(NEW_YORK)

# The carrier, the route, and the line (a carrier's flight number) that flies it day by day. What looks back over
# weeks moves on in whole hours (`hop`): the state is then small however busy the carrier is.

carrier_late = mean(landing.late, entity="carrier")
carrier_late_week = mean(landing.late, entity="carrier", window="7d", hop="1h")
carrier_late_2d = mean(landing.late, entity="carrier", window="2d", hop="1h")
carrier_late_6h = mean(landing.late, entity="carrier", window="6h")
carrier_trend = carrier_late_6h - carrier_late_week
route_late = mean(landing.late, entity="route", windows=("7d", "60d"), hop="6h")
route_spread = std(landing.arr_delay, entity="route", window="60d", hop="6h")
line_delay = mean(landing.arr_delay.clip(-60, 180), entity="line", windows=("14d", "60d"))
line_last = last(landing.arr_delay, entity="line", max_age="3d")

# The airport at this hour: how late planes leave, and whether they leave at all.

origin_late = mean(landing.late, entity="origin", window="30d", hop="1h")
origin_delay = mean(departure.dep_delay, entity="origin", windows=("1h", "2h", "6h"))
origin_worst = max(departure.dep_delay, entity="origin", window="2h")
origin_held = mean(departure.dep_delay > 30, entity="origin", window="2h")
planned_2h = count(flight, entity="origin", window="2h")
left_2h = count(departure, entity="origin", window="2h")
backlog = planned_2h - left_2h
flow = left_2h / planned_2h
of_carriers = mean(
    departure.dep_delay,
    entity="origin",
    window="3h",
    by=departure.carrier,
    categories=("UA", "B6", "EV", "DL", "AA"),
)
carrier_delay_here = case(
    (flight.carrier == "UA", of_carriers["UA"]),
    (flight.carrier == "B6", of_carriers["B6"]),
    (flight.carrier == "EV", of_carriers["EV"]),
    (flight.carrier == "DL", of_carriers["DL"]),
    (flight.carrier == "AA", of_carriers["AA"]),
    otherwise=of_carriers["other"],
)
dest_late = mean(landing.late, entity="dest", window="30d", hop="6h")
dest_late_6h = mean(landing.late, entity="dest", window="6h")
route_delay_6h = mean(departure.dep_delay, entity="route", window="6h")

# The plane: when and how late it was last seen, and whether it can be here at all.

plane_delay = last(departure.dep_delay, max_age="12h")
plane_late = last(landing.arr_delay, entity="tailnum", max_age="18h")
plane_left = since(departure, window="18h") / 3600
plane_landed = since(landing, entity="tailnum", window="18h") / 3600
plane_flying = plane_left.coalesce(99) < plane_landed.coalesce(99)
plane_recent = last_k(departure.dep_delay, 3, window="3d")
plane_flights = count(departure, window="1d")
plane_age = flight.at.year(NEW_YORK) - last(plane.year)
plane_seats = last(plane.seats)

# The weather at the airport.

temp = last(weather.temp, max_age="3h")
wind = last(weather.wind_speed, max_age="3h")
rain = last(weather.precip, max_age="3h")
rain_6h = sum(weather.precip, window="6h")
visibility = last(weather.visib, max_age="3h")
haze = min(weather.visib, window="6h")
pressure = last(weather.pressure, max_age="3h")
pressure_change = pressure - mean(weather.pressure, window="12h")


def fit(data: Data):
    return HistGradientBoostingClassifier(**data.params, random_state=data.seed).fit(data.x, data.y)


late = Pipeline(
    request=flight,
    label=landing.late,
    wait="2d",
    features=[
        *(flight.distance, flight.local_hour, weekday, minute),
        *(carrier_late, carrier_late_week, carrier_late_2d, carrier_late_6h, carrier_trend),
        *(route_late, route_spread, route_delay_6h, line_delay, line_last),
        *(origin_late, origin_delay, origin_worst, origin_held, planned_2h, left_2h, backlog, flow),
        *(
            of_carriers["UA"],
            of_carriers["B6"],
            of_carriers["EV"],
            carrier_delay_here,
            dest_late,
            dest_late_6h,
        ),
        *(plane_delay, plane_late, plane_left, plane_landed, plane_flying, plane_recent, plane_flights),
        *(plane_age, plane_seats),
        *(temp, wind, rain, rain_6h, visibility, haze, pressure, pressure_change),
    ],
    fit=fit,
    params={"max_iter": 60, "max_leaf_nodes": 15, "learning_rate": 0.1},
    train=every("35d", window="180d", at_least=4000),
    gate=better("log_loss", slices=["origin"], p99="250ms"),
    release=steps(shadow="2d", canary=(10, 50), hold="2d", guard="7d", flips=0.25),
    watch=[
        missing("tailnum") < 0.05,
        rate("positive", "1d") < 0.5,
        loss("7d") < 0.6,
    ],
    threshold=0.4,
)
