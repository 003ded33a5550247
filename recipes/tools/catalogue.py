"""Tools that do not exist, and sentences that ask for them: what `dialogues.py` makes training dialogues of.

A tool is a line each for its name and description, its parameters (`name: type = values | description`, a `?` behind
the type where it may be left out), and its sentences. In a sentence `{x}` is a parameter's value as people write it;
`[x=value]` at its end is one that the words before it imply.
"""

from __future__ import annotations

VALUES = {
    "city": (
        "Lisbon, Oslo, Nairobi, Quito, Hanoi, Porto, Turin, Leeds, Malmö, Gdańsk, Denver, Austin, Perth, Osaka, Lima, "
        "Accra, Tunis, Bergen, Ghent, Basel, Salt Lake City, Cape Town, San Diego, Buenos Aires, New Orleans, Kyoto"
    ),
    "country": "Norway, Kenya, Peru, Vietnam, Portugal, Chile, Ghana, Iceland, New Zealand, Poland, Jordan",
    "person": (
        "Ada Byron, Grace Okafor, Tomás Ruiz, Mei Tanaka, Jonas Weber, Leila Haddad, Priya Nair, Sam O'Neill, "
        "Ines Costa, Viktor Lang, Amara Diallo, Dr. Chen, Hugo Martin, Nora Lind"
    ),
    "artist": "The Blue Herons, Marta Vale, Iron Lantern, Sol Quartet, DJ Maris, North Choir, Etta Moon",
    "book": "The Salt Road, Winter Orchard, A House of Maps, Seven Bridges, The Quiet Engine, Tidewater",
    "company": "Norwind Energy, Halden Bank, Bluepeak, Orbis Foods, Tessel Labs, Kivu Motors, Ardent Media",
    "food": "lentil soup, mushroom risotto, apple pie, fish tacos, ramen, pumpkin bread, falafel, paella, chili",
    "cuisine": "Thai, Ethiopian, Georgian, Peruvian, Korean, Greek, Lebanese, Mexican, vegan, Basque",
    "animal": "otters, barn owls, red foxes, sea turtles, lynx, hedgehogs, pelicans, brown bears, wolves",
    "plant": "tomatoes, basil, sunflowers, wheat, lavender, oak trees, maize, orchids",
    "material": "steel, oak, glass, copper, granite, nylon, aluminium, concrete, rubber",
    "chemical": "methane, ethanol, sodium chloride, ammonia, benzene, caffeine, acetone, glucose",
    "sport": "handball, rowing, badminton, ice hockey, table tennis, fencing, rugby, curling",
    "team": "Oslo Falcons, Porto Waves, Lima Condors, Leeds Rovers, Kyoto Cranes, Denver Peaks",
    "language": "Swahili, Danish, Korean, Portuguese, Welsh, Turkish, Hindi, Finnish",
    "subject": "solar panels, jazz history, glaciers, chess openings, bee keeping, coral reefs, Roman law",
    "message": "Running ten minutes late, The parcel has arrived, Happy birthday, Please call me back, See you at noon",
    "file": "report.pdf, sales_2021.csv, notes.txt, draft_v2.docx, photo_17.png, backup.tar, budget.xlsx",
    "url": "https://example.org/news, http://data.example.com/feed, https://shop.example.net/item/42",
    "code": "AX-2041, B7719, order_5583, QK88Z, inv-0097, T1000X, user_381, PN-4410",
    "currency": "EUR, USD, JPY, NOK, GBP, CHF, KES, PLN",
    "street": "14 Harbour Street, 9 Elm Lane, 220 Station Road, 5 Mill Court, 31 King's Row",
    "hotel": "Hotel Aurora, The Grand Pine, Seaview Inn, Casa Verde, Hotel Meridian, Fjord Lodge",
    "film": "The Last Ferry, Northern Lights, Glass Mountain, Two Summers, The Cartographer, Midnight Harbour",
    "gene": "FOXP9, TP71, MYC2, KRT81, ABCX4",
    "expression": "x^2 + 3x - 4, 2x^3, sin(x), 5x + 7, x^4 - x, 3x^2 - 2x + 1, e^x",
    "colour": "green, dark blue, white, crimson, yellow, grey",
}

TOOLS = """
forecast_weather :: Get the weather forecast for a city.
city: city | The city to get the forecast for
days: integer? = 1-10 | How many days ahead, default is 1
unit: enum? = celsius, fahrenheit | Unit of temperature
- What will the weather be like in {city}?
- Give me the forecast for {city} for the next {days} days.
- Is it going to rain in {city} over {days} days? Use {unit}.
- I'm off to {city}. How warm will it be, in {unit}?

rectangle_surface :: Compute the area of a rectangle from its sides.
length: number = 2-90 | Length of the rectangle
width: number = 2-60 | Width of the rectangle
- Compute the area of a rectangle with length {length} and width {width}.
- How large is a rectangle that is {length} meters long and {width} meters wide?
- A field has a width of {width} m and a length of {length} m, what is its area?

cone_volume :: Calculate the volume of a cone.
radius: number = 1-30 | Radius of the base
height: number = 2-50 | Height of the cone
- What is the volume of a cone with a radius of {radius} and a height of {height}?
- Calculate how much fits in a cone {height} cm high with base radius {radius} cm.
- Find the volume of a cone whose height is {height} and whose base has radius {radius}.

loan_payment :: Calculate the monthly payment of a loan.
principal: integer = 5000-400000 | The amount borrowed, in dollars
rate: percent = 1-9 | Yearly interest rate as a decimal
years: integer = 2-30 | Term of the loan in years
- What is the monthly payment on a loan of ${principal} at {rate} over {years} years?
- I borrow {principal} dollars for {years} years with an interest rate of {rate}. What do I pay each month?

savings_growth :: Project the value of savings with compound interest.
deposit: integer = 500-90000 | Money put in at the start
annual_rate: percent = 1-8 | Annual interest rate
periods: integer = 2-40 | Number of years
- If I put {deposit} dollars away at {annual_rate} a year, what is it worth after {periods} years?
- Project savings of ${deposit} over {periods} years at an annual rate of {annual_rate}.

list_mean :: Compute the mean of a list of numbers.
values: numbers | The numbers
- What is the average of {values}?
- Compute the mean of the numbers {values}.
- I measured {values}. What is the mean?

sort_values :: Sort a list of numbers.
items: integers | The numbers to sort
descending: boolean? | Whether the largest comes first
- Sort {items}.
- Put the list {items} in order.
- Sort {items} in descending order. [descending=true]

least_multiple :: Find the least common multiple of two numbers.
first: integer = 3-90 | The first number
second: integer = 3-90 | The second number
- Find the least common multiple of {first} and {second}.
- What's the smallest number that both {first} and {second} divide?

check_prime :: Check whether a number is prime.
number: integer = 5-9000 | The number to check
- Is {number} a prime number?
- Check if {number} is prime.

power_of :: Raise a base to an exponent.
base: integer = 2-20 | The base
exponent: integer = 2-9 | The exponent
- Compute {base} to the power of {exponent}.
- What is {base} raised to {exponent}?

derivative_at :: Differentiate a function at a point.
function: expression | The function to differentiate, in x
point: number = 1-9 | Where to take the derivative
- What is the derivative of {function} at x = {point}?
- Differentiate the function f(x) = {function} at the point {point}.

kinetic.energy :: Compute the kinetic energy of a moving body.
mass: number = 1-900 | Mass in kilograms
velocity: number = 1-90 | Speed in meters per second
- What is the kinetic energy of a body of {mass} kg moving at {velocity} m/s?
- Compute the kinetic energy for velocity {velocity} m/s and mass {mass} kg.

fall_time :: Time that an object takes to fall from a height.
height: number = 3-400 | Height of the fall in meters
gravity: number? = 1-20 | Acceleration of gravity, default is 9.81 m/s^2
- How long does a stone fall from {height} meters?
- From a tower {height} m high I drop a ball. When does it land? Assume gravity is {gravity} m/s^2.

ohm.current :: Current through a resistor.
voltage: number = 1-240 | Voltage in volts
resistance: number = 2-900 | Resistance in ohms
- What current flows through {resistance} ohms at {voltage} volts?
- A resistor of {resistance} ohm is connected to {voltage} V. Find the current.

body_index :: Calculate the body mass index.
weight_kg: number = 45-120 | Weight in kilograms
height_m: decimal = 1.5-2.0 | Height in meters
- What is the BMI of someone who weighs {weight_kg} kg and is {height_m} m tall?
- I'm {height_m} meters tall with a weight of {weight_kg} kilograms. What's my BMI?

convert_money :: Convert an amount from one currency to another.
amount: number = 5-9000 | Amount to convert
source: currency | Currency of the amount
target: currency | Currency to convert to
- Convert {amount} {source} to {target}.
- How much is {amount} {source} in {target}?
- I have {amount} {source}, what do I get in {target}?

find_trains :: Find trains between two cities.
origin: city | City of departure
destination: city | City of arrival
date: date | Day of travel, yyyy-mm-dd
- Find trains from {origin} to {destination} on {date}.
- I need to go to {destination} from {origin} on {date}, which trains are there?
- Which trains leave {origin} for {destination} on {date}?

flights.book :: Book a flight.
from_city: city | Departure city
to_city: city | Arrival city
date: date | Date of the flight in format yyyy-mm-dd
seats: integer? = 1-6 | Number of seats, default 1
cabin: enum? = economy, business, first | Class of travel
- Book a flight from {from_city} to {to_city} on {date}.
- Get me {seats} seats on a flight to {to_city} from {from_city} on {date} in {cabin} class.
- I want to fly {cabin} from {from_city} to {to_city} on {date}.

route_distance :: Distance between two places by road.
start: city | Where the route starts
end: city | Where the route ends
unit: enum? = km, miles | Unit of the distance
- How far is it from {start} to {end}?
- What is the distance between {start} and {end} in {unit}?
- Tell me the road distance from {start} to {end} in {unit}.

find_hotels :: Search for hotels.
city: city | The city to stay in
nights: integer? = 1-14 | How many nights
stars: integer? = 2-5 | Least number of stars
pool: boolean? | Whether there must be a pool
- Find a hotel in {city}.
- I need a hotel in {city} for {nights} nights with at least {stars} stars.
- Search hotels in {city} with a pool. [pool=true]

reserve_room :: Reserve a room in a hotel.
hotel: hotel | Name of the hotel
check_in: date | Day of arrival, yyyy-mm-dd
guests: integer = 1-6 | Number of guests
- Reserve a room at {hotel} for {guests} guests from {check_in}.
- Book {hotel}, arriving {check_in}, {guests} people.

eat_out :: Find restaurants by cuisine and place.
cuisine: cuisine | Kind of food
location: city | City to search in
open_late: boolean? | Whether it must be open late
- Find a {cuisine} restaurant in {location}.
- Where can I eat {cuisine} food in {location}?
- Are there any {cuisine} places in {location} that are open late? [open_late=true]

recipes.lookup :: Look up a recipe.
dish: food | The dish to cook
servings: integer? = 1-10 | For how many people
diet: enum? = vegetarian, vegan, gluten-free | Dietary restriction
- How do I make {dish}?
- Give me a recipe for {dish} for {servings} people.
- I'd like a {diet} recipe for {dish}.

nutrition_facts :: Get nutrition facts of a food.
food: food | Name of the food
grams: integer? = 50-800 | Portion in grams, default 100
- How many calories are in {food}?
- Show the nutrition facts of {grams} g of {food}.

play_music :: Play music of an artist.
artist: artist | Who to play
minutes: integer? = 5-90 | How long to play, in minutes
shuffle: boolean? | Whether to shuffle the songs
- Play something by {artist}.
- Put on {artist} for {minutes} minutes.
- Play {artist} on shuffle. [shuffle=true]

concerts.search :: Search for concerts.
performer: artist | The artist or band
city: city | Where the concert is
month: enum? = January, March, May, July, September, November | Month of the concert
- When does {performer} play in {city}?
- Find concerts of {performer} in {city} in {month}.

film_details :: Get details of a film.
title: film | Title of the film
year: integer? = 1960-2023 | Year of release
- Tell me about the film '{title}'.
- Who directed {title} from {year}?
- Look up the movie "{title}".

book_search :: Search a library for a book.
title: book | Title of the book
author: person? | Name of the author
- Is '{title}' in the library?
- Find the book "{title}" by {author}.
- Search the library for {title} written by {author}.

stock_quote :: Get the price of a company's share.
company: company | The name of the company
days: integer? = 2-90 | Days of history
- What is {company} trading at?
- Show me the stock price of {company} for the last {days} days.

company.revenue :: Revenue of a company in a year.
company_name: company | Company to look up
year: integer = 1995-2023 | The year
- What was the revenue of {company_name} in {year}?
- How much did {company_name} earn in {year}?

send_message :: Send a message to a person.
recipient: person | Who gets the message
text: message | What it says
- Send "{text}" to {recipient}.
- Tell {recipient}: '{text}'.
- Message {recipient} saying "{text}".

meeting.create :: Put a meeting into the calendar.
with_person: person | Who to meet
date: date | Day of the meeting, yyyy-mm-dd
time: clock | When it starts, HH:MM
- Set up a meeting with {with_person} on {date} at {time}.
- Schedule a meeting at {time} on {date} with {with_person}.

set_timer :: Start a timer.
minutes: integer = 1-120 | Minutes until it rings
- Set a timer for {minutes} minutes.
- Wake me in {minutes} minutes.

translate_words :: Translate a text.
text: message | Text to translate
language: language | Language to translate to
- Translate "{text}" into {language}.
- How do you say '{text}' in {language}?

file.read :: Read a file.
path: file | Path of the file
lines: integer? = 5-500 | At most so many lines
- Open {path}.
- Show me the first {lines} lines of {path}.

download_page :: Download a web page.
url: url | Address of the page
- Download {url}.
- Get me the page at {url}.

order_status :: Look up an order.
order_id: code | The order's identifier
- Where is my order {order_id}?
- Check the status of order {order_id}.

invoice.pay :: Pay an invoice.
invoice_number: code | Number of the invoice
amount: number = 10-5000 | Amount to pay
currency: currency? | Currency of the amount
- Pay {amount} on invoice {invoice_number}.
- Settle invoice {invoice_number} with {amount} {currency}.

species_info :: Facts about a species.
species: animal | Animal to look up
region: country? | Region where it lives
- What do {species} eat?
- Tell me about {species} in {region}.
- Give me facts about {species}.

population_count :: Estimated population of an animal.
animal: animal | The animal
country: country | Country to count in
year: integer? = 1990-2023 | Year of the estimate
- How many {animal} live in {country}?
- Estimate the number of {animal} in {country} in {year}.

grow_guide :: Advice on growing a plant.
plant: plant | Plant to grow
climate: enum? = tropical, dry, temperate, cold | Climate of the garden
- How do I grow {plant}?
- Tips for {plant} in a {climate} climate?

density.lookup :: Density of a material.
material: material | Name of the material
- How dense is {material}?
- Look up the density of {material}.

boiling_point :: Boiling point of a substance.
substance: chemical | The substance
pressure: number? = 1-50 | Pressure in kPa
- At what temperature does {substance} boil?
- Find the boiling point of {substance} at {pressure} kPa.

molar_mass :: Molar mass of a compound.
compound: chemical | Name of the compound
- What is the molar mass of {compound}?
- Compute the molar mass for {compound}.

team_results :: Results of a team.
team: team | Name of the team
season: integer? = 2001-2023 | Year of the season
games: integer? = 2-20 | How many games
- How did {team} do in {season}?
- Show the last {games} results of {team}.

sport_events :: Events of a sport in a place.
sport: sport | Kind of sport
city: city | City of the events
- Which {sport} events are there in {city}?
- Find {sport} matches in {city}.

gene_function :: What a gene does.
gene: gene | Symbol of the gene
species: enum? = human, mouse, yeast | The organism
- What does the gene {gene} do?
- Describe the role of {gene} in {species}.

country_facts :: A fact about a country.
country: country | The country
topic: enum = population, capital, area, currency | Which fact
- What is the {topic} of {country}?
- Tell me the {topic} of {country}.

court_case :: Find a court case.
party: person | A party to the case
city: city? | Where it was heard
year: integer? = 1960-2023 | Year of the ruling
- Find court cases with {party}.
- Was {party} in a lawsuit in {city} in {year}?

paint_needed :: How much paint a wall needs.
width: number = 2-20 | Width of the wall in meters
height: number = 2-6 | Height of the wall in meters
colour: colour? | Colour of the paint
- How much paint do I need for a wall {width} m wide and {height} m high?
- I'll paint a wall {colour}, width {width} meters, height {height} meters. How much paint?

learn_course :: Find a course.
subject: subject | What to learn
level: enum? = beginner, intermediate, advanced | Level of the course
weeks: integer? = 2-20 | Duration in weeks
- Find me a course on {subject}.
- I want a {level} course about {subject} that takes {weeks} weeks.

web.lookup :: Search the web.
query: subject | What to search for
results: integer? = 3-20 | How many results
- Search the web for {query}.
- Find {results} pages about {query}.

deliver_parcel :: Have a parcel delivered.
address: street | Where to deliver
weight: number = 1-30 | Weight in kg
express: boolean? | Whether it is urgent
- Deliver a parcel of {weight} kg to {address}.
- Send {weight} kg to {address}, by express. [express=true]

dice_odds :: Probability of a sum with dice.
dice: integer = 1-6 | Number of dice
target_sum: integer = 2-30 | The sum
- What is the chance of rolling a sum of {target_sum} with {dice} dice?
- Probability that {dice} dice come to {target_sum}?
"""

VAGUE = {  # what a person says instead of a value
    "number": "some amount, a certain number, as many as usual, the number we agreed on",
    "date": "that day, the usual day, some day, the day that we talked about",
    "text": "the usual one, that one, the one from last time, you know which, something, the one that I like",
}
