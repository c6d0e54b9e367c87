"""Will this flight land more than 15 minutes late? Asked at the scheduled departure, from what is known then."""

from datetime import datetime

from sklearn.ensemble import HistGradientBoostingClassifier

from penstock import (
    Data,
    Event,
    Pipeline,
    better,
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

# What the request itself says. All three airports keep New York's time.

NEW_YORK = "America/New_York"
weekday = flight.at.weekday(NEW_YORK)

# The carrier, the route, and the line (a carrier's flight number), which flies day by day. What looks back over
# days moves on in whole hours (`hop`): its state stays small however busy a carrier is.

carrier_late = mean(landing.late, entity="carrier")
carrier_lately = mean(landing.late, entity="carrier", windows=("2d", "7d"), hop="1h")
carrier_late_6h = mean(landing.late, entity="carrier", window="6h")
carrier_trend = carrier_late_6h - carrier_lately["7d"]
route_late = mean(landing.late, entity="route", windows=("7d", "60d"), hop="6h")
line_delay = mean(landing.arr_delay, entity="line", windows=("14d", "60d"))
line_last = last(landing.arr_delay, entity="line", max_age="3d")

# The airport at this hour: how late planes leave it, whether they leave at all, and how late they land elsewhere.

origin_late = mean(landing.late, entity="origin", window="30d", hop="1h")
origin_delay = mean(departure.dep_delay, entity="origin", windows=("1h", "2h", "6h"))
origin_worst = max(departure.dep_delay, entity="origin", window="2h")
origin_held = count(departure, entity="origin", window="2h", where=departure.dep_delay > 30)
origin_of = mean(
    departure.dep_delay, entity="origin", window="3h", by=departure.carrier, categories=("UA", "B6")
)
planned_2h = count(flight, entity="origin", window="2h")
left_2h = count(departure.dep_delay, entity="origin", window="2h")
backlog = planned_2h - left_2h
flow = left_2h / planned_2h
dest_late_6h = mean(landing.late, entity="dest", window="6h")

# The plane: when and how late it was last seen, and whether it can be here at all. One that leaves before its time
# is known to have left when the question is asked.

plane_delay = last(departure.dep_delay, max_age="12h")
plane_late = last(landing.arr_delay, entity="tailnum", max_age="18h")
plane_left = since(departure.dep_delay, window="18h") / 3600
plane_landed = since(landing.arr_delay, entity="tailnum", window="18h") / 3600
plane_flying = plane_left.coalesce(99) < plane_landed.coalesce(99)
plane_recent = last_k(departure.dep_delay, 3, window="3d")
plane_flights = count(departure.dep_delay, window="1d")
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
        *(flight.distance, flight.local_hour, weekday),
        *(carrier_late, carrier_lately, carrier_late_6h, carrier_trend, route_late, line_delay, line_last),
        *(
            origin_late,
            origin_delay,
            origin_worst,
            origin_held,
            origin_of,
            planned_2h,
            left_2h,
            backlog,
            flow,
        ),
        *(dest_late_6h, plane_delay, plane_late, plane_left, plane_landed, plane_flying, plane_recent),
        *(plane_flights, plane_age, plane_seats),
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
