"""The templates and words of the word problems.

A template is (name, draws, question, steps). All four are plain strings:

    draws     "x 2..9; y = 3*x"      x is drawn evenly from 2..9 (bounds are expressions of earlier names), y is computed
    question  "{a} has {x} {it}."    {name} stands for a number, a person (a, b, c; a.he, a.his, ...), or a noun
              "<walks|runs>"         one of the alternatives; they do not nest
    steps     "[x*y=n]"              writes the sum with its numbers, "3*4=12", and names the result n

A draw whose step gives a fraction or a number below 1 is thrown away. The last result named is the answer.
"""

TEMPLATES = [
    # Buying, selling, wages
    ("shop_two", "x 2..9; p 2..25; y 2..9; q 2..25",
     "<{a} buys {x} {goods} for ${p} each and {y} {goods2} for ${q} each.|At the {place}, a {good} costs ${p} and a "
     "{good2} costs ${q}. {a} buys {x} {goods} and {y} {goods2}.> <How much does {a} spend?|What is the total cost in "
     "dollars?>",
     ["The {goods} cost [x*p=m] dollars.", "The {goods2} cost [y*q=n] dollars.", "In total that is [m+n=t] dollars."]),
    ("change", "x 2..8; p 2..12; q 2..30; pay = 50*(1+(x*p+q)//50)",
     "<{a} pays with ${pay} for {x} {goods} at ${p} each and one {good2} at ${q}. How much change does {a.he} get?|{a} "
     "has ${pay}. {a.He} buys a {good2} for ${q} and {x} {goods} for ${p} each. How many dollars does {a} have left?>",
     ["The {goods} cost [x*p=m] dollars.", "With the {good2} that is [m+q=t] dollars.",
      "{a} has [pay-t=r] dollars left."]),
    ("wages", "w 8..30; h 2..9; d 2..6; s 10..90",
     "<{a} earns ${w} an hour and works {h} hours a day. {a.He} works {d} days and spends ${s} of {a.his} pay.|{a} works "
     "{d} days a week, {h} hours each day, for ${w} an hour. Each week {a.he} pays ${s} for gas.> "
     "<How much money does {a} keep?|How many dollars does {a} have left?>",
     ["{a} works [h*d=t] hours.", "{a} earns [t*w=m] dollars.", "{a} keeps [m-s=r] dollars."]),
    ("saving", "s 5..40; w 2..9; h 5..90; more 5..150; p = s*w+h+more",
     "<{a} wants a {dear} that costs ${p}. {a.He} has ${h} and saves ${s} a week for {w} weeks.|A {dear} costs ${p}. {a} "
     "saves ${s} each week for {w} weeks and already has ${h}.> <How much more money does {a} need?|How many more "
     "dollars does {a} need for the {dear}?>",
     ["{a} saves [s*w=m] dollars.", "{a} then has [h+m=t] dollars.", "{a} needs [p-t=r] dollars more."]),
    ("discount", "k pick 10 20 25 50; e 2..40; p = e*100//k; s 2..25",
     "{a} buys a {good} that costs ${p}. It is {k}% off, but {a.he} pays ${s} for <shipping|wrapping>. How much does {a} "
     "pay in total?",
     ["The discount is [p*k/100=m] dollars.", "The {good} then costs [p-m=n] dollars.",
      "In total {a} pays [n+s=t] dollars."]),
    ("profit", "n 2..30; c 2..40; m 2..9; s = c+m; f 2..40",
     "{a} buys {n} {goods} for ${c} each and sells each {good} for ${s}. The <stand|table|van> costs {a.him} ${f}. What "
     "is {a.his} profit?",
     ["On each {good} {a} makes [s-c=d] dollars.", "That is [n*d=t] dollars.", "The profit is [t-f=r] dollars."]),
    ("farm_sale", "x 2..9; p 20..90; y 2..9; q 3..20; c 10..100",
     "{a} sells {x} <cows|goats|pigs> at ${p} each and {y} <hens|ducks> at ${q} each. {a.He} then pays ${c} for "
     "<feed|hay|a gate>. How much money does {a} have?",
     ["The first sale brings [x*p=m] dollars.", "The second brings [y*q=n] dollars.",
      "Together it is [m+n=t] dollars.", "{a} has [t-c=r] dollars left."]),
    ("tickets", "x 2..30; p 4..9; y 2..30; q 2..9",
     "Tickets for the <show|zoo|museum|fair|game> cost ${p} for adults and ${q} for children. How much do {x} adults and "
     "{y} children pay?",
     ["The adults pay [x*p=m] dollars.", "The children pay [y*q=n] dollars.", "Together they pay [m+n=t] dollars."]),
    ("gift", "x 5..90; y 5..90; z 5..90; p 5..x+y+z-1",
     "{a} puts in ${x}, {b} puts in ${y} and {c} puts in ${z}. They buy a {dear} for ${p}. How much money is left?",
     ["{a} and {b} put in [x+y=m] dollars.", "With {c} it is [m+z=t] dollars.",
      "After the {dear} there are [t-p=r] dollars left."]),
    ("rent", "k 2..6; e 20..150; u 10..90; r = k*e-u",
     "{a} and {a.his} roommates pay ${r} for rent and ${u} for <power|water|heat>. There are {k} people in all and they "
     "split the cost equally. How much does {a} pay?",
     ["The total is [r+u=t] dollars.", "{a} pays [t/k=s] dollars."]),
    ("monthly_plan", "f 5..40; x 2..9; c 2..9; m 2..6",
     "A <phone|gym|club|pool> plan costs ${f} a month plus ${c} for each <visit|class|extra>. {a} uses {x} each month. How "
     "much does {a} pay for {m} months?",
     ["The extra cost is [x*c=n] dollars.", "A month costs [f+n=t] dollars.", "{a} pays [t*m=r] dollars."]),
    ("parking", "f 2..15; c 2..9; h 3..9; d 2..6",
     "Parking costs ${f} for the first hour and ${c} for each hour after that. {a} parks for {h} hours a day. How much "
     "does {a.he} pay for {d} days?",
     ["There are [h-1=g] hours after the first.", "They cost [g*c=m] dollars.", "A day costs [f+m=t] dollars.",
      "In {d} days {a} pays [t*d=r] dollars."]),
    ("coins", "x 1..9; y 1..30; z 1..60",
     "{a} has {x} quarters, {y} dimes and {z} pennies. How many cents does {a.he} have?",
     ["The quarters make [x*25=m] cents.", "The dimes make [y*10=n] cents.", "Together they make [m+n=t] cents.",
      "With the pennies it is [t+z=r] cents."]),
    ("recipe", "c 2..9; k 2..9; h 2..c*k-1; p 2..5",
     "A recipe needs {c} cups of {food}. {a} makes it {k} times and already has {h} cups of {food}. A cup costs ${p}. How "
     "much does {a} pay for the {food} that {a.he} still needs?",
     ["{a} needs [c*k=m] cups.", "So [m-h=n] cups must be bought.", "They cost [n*p=t] dollars."]),
    # Giving, sharing, comparing
    ("give_away", "x 2..9; y 3..40; z 1..min(60,x*y-1)",
     "<{a} has {x} {box} of {it} with {y} {it} in each. {a.He} gives {z} {it} to {b}.|There are {y} {it} in each of {a}'s "
     "{x} {box}. {a} gives {b} {z} {it}.> <How many {it} does {a} have left?|How many {it} are left for {a}?>",
     ["{a} has [x*y=m] {it}.", "After giving {z} to {b}, {a} has [m-z=r] {it}."]),
    ("buy_more", "s 5..150; x 2..9; y 3..30",
     "<{a} has {s} {it}. {a.He} buys {x} more {box} of {it}, and each holds {y} {it}.|{a} buys {x} {box} with {y} {it} in "
     "each. {a.He} already had {s} {it}.> How many {it} does {a} have now?",
     ["{a} buys [x*y=m] {it}.", "Now {a} has [s+m=t] {it}."]),
    ("more_than", "x 5..300; y 3..99",
     "<{a} has {x} {it}. {b} has {y} more {it} than {a}.|{b} has {y} more {it} than {a}, who has {x}.> <How many do they "
     "have together?|How many {it} do {a} and {b} have in total?>",
     ["{b} has [x+y=m] {it}.", "Together they have [x+m=t] {it}."]),
    ("times_as_many", "x 4..90; k 2..5",
     "<{a} has {x} {it}. {b} has {times:k} as many {it} as {a}.|{b} has {times:k} as many {it} as {a}. {a} has {x} {it}.> "
     "<How many do they have together?|How many {it} do they have in all?>",
     ["{b} has [x*k=m] {it}.", "Together they have [x+m=t] {it}."]),
    ("chain_three", "x 20..150; y 2..x//2; k 2..4",
     "{a} <found|picked|collected|made> {x} {it}. {b} got {y} fewer {it} than {a}. {c} got {times:k} as many as {b}. How "
     "many {it} did the three of them get?",
     ["{b} got [x-y=m] {it}.", "{c} got [m*k=n] {it}.", "{a} and {b} got [x+m=t] {it}.", "All three got [t+n=r] {it}."]),
    ("share", "k 2..9; e 4..40; x 2..k*e-1; y = k*e-x",
     "{a} has {x} {it} and <finds|buys|gets> {y} more. {a.He} shares them equally among {k} <friends|children|students>. "
     "How many {it} does each one get?",
     ["{a} has [x+y=t] {it}.", "Each one gets [t/k=r] {it}."]),
    ("keep_some", "k 2..9; e 3..30; x 2..60; n = k*e+x",
     "{a} has a bag of {n} {it}. {a.He} keeps {x} {it} and splits the rest equally among {k} <friends|cousins|neighbors>. "
     "How many {it} does each one get?",
     ["There are [n-x=t] {it} to split.", "Each one gets [t/k=r] {it}."]),
    ("half", "h 6..150; n = 2*h; y 1..h-1",
     "<{a} has {n} {it}. {a.He} gives half of them to {b} and then loses {y}.|{a} had {n} {it}. Half of them went to {b}, "
     "and {a} sold {y} of the rest.> How many {it} does {a} have left?",
     ["{b} gets [n/2=m] {it}.", "{a} has [n-m=t] {it} after that.", "{a} has [t-y=r] {it} left."]),
    ("fraction", "k 3..6; e 4..60; n = k*e; s 1..e",
     "A {place} has {n} {it}. One {part:k} of them are <sold|broken|given away> on Monday, and {s} more on Tuesday. How "
     "many {it} are left?",
     ["On Monday [n/k=m] {it} go.", "That leaves [n-m=t] {it}.", "After Tuesday there are [t-s=r] {it}."]),
    ("rivals", "x 5..40; d 2..9; y 5..40; e 2..9",
     "{a} sells {x} {it} a day for {d} days. {b} sells {y} {it} a day for {e} days. How many more {it} does {a} sell than "
     "{b}?",
     ["{a} sells [x*d=m] {it}.", "{b} sells [y*e=n] {it}.", "{a} sells [m-n=r] more."]),
    ("backward", "x 3..90; y 3..90; s x..200; z = s-x+y",
     "{a} gave {x} {it} to {b} and then bought {y}. Now {a.he} has {z} {it}. How many {it} did {a} have at first?",
     ["Before buying, {a} had [z-y=m] {it}.", "Before giving, {a} had [m+x=r] {it}."]),
    ("three_weeks", "x 5..150; y 1..2*x-1",
     "In the first week {a} <sells|makes|collects> {x} {it}. In the second week it is twice as many, and in the third week "
     "{y} fewer than in the second. How many {it} is that in total?",
     ["The second week has [x*2=m] {it}.", "The third week has [m-y=n] {it}.", "Two weeks make [x+m=s] {it}.",
      "In total it is [s+n=t] {it}."]),
    ("two_bags", "x 10..90; d 2..40; y 5..60",
     "{a} has two bags of {it}. The first holds {x} {it} and the second holds {d} more. {a.He} takes out {y} {it}. How "
     "many {it} are left in the bags?",
     ["The second bag holds [x+d=m] {it}.", "Both hold [x+m=t] {it}.", "There are [t-y=r] {it} left."]),
    ("collection", "x 10..99; k 2..4; y 3..60",
     "{a} has {x} {it}. {b} had {times:k} as many, but {b.he} lost {y} of them. How many {it} do they have in all?",
     ["{b} had [x*k=m] {it}.", "{b} has [m-y=n] {it} now.", "In all they have [x+n=t] {it}."]),
    # People, time, distance
    ("two_speeds", "v 20..70; t 2..6; w 20..70; u 2..6",
     "{a} <drives|rides|travels> for {t} hours at {v} miles per hour and then for {u} hours at {w} miles per hour. How many "
     "miles does {a} go in all?",
     ["First {a} goes [v*t=m] miles.", "Then {a} goes [w*u=n] miles.", "In all that is [m+n=r] miles."]),
    ("reading", "x 5..40; d 2..9; y 5..40; e 2..9; more 5..150; n = x*d+y*e+more",
     "{a} is reading a book of {n} pages. {a.He} reads {x} pages a day for {d} days and then {y} pages a day for {e} days. "
     "How many pages <are left|does {a} still have to read>?",
     ["First {a} reads [x*d=m] pages.", "Then {a} reads [y*e=k] pages.", "That is [m+k=t] pages.",
      "There are [n-t=r] pages left."]),
    ("ages", "x 4..20; k 2..4; y 1..x*k-1; f 2..20",
     "{a} is {x} years old. {b} is {times:k} as old as {a}. {c} is {y} years younger than {b}. How old will {c} be in {f} "
     "years?",
     ["{b} is [x*k=m] years old.", "{c} is [m-y=n] years old.", "In {f} years {c} will be [n+f=r] years old."]),
    ("homework", "x 10..60; k 2..3; z 5..60",
     "{a} spends {x} minutes on <math|history|art> and {times:k} as long on <science|reading|music>. Then {a.he} "
     "<walks|plays|rests> for {z} minutes. How many minutes does that take in all?",
     ["The second subject takes [x*k=m] minutes.", "The work takes [x+m=t] minutes.", "In all it takes [t+z=r] minutes."]),
    ("laps", "k 2..9; m 2..18; len = 5*m; d 2..7; n 2..4",
     "{a} <runs|swims|walks> {k} laps of {len} meters a day, {d} days a week. How many meters is that in {n} weeks?",
     ["In a day it is [k*len=s] meters.", "In a week it is [s*d=t] meters.", "In {n} weeks it is [t*n=r] meters."]),
    ("typing", "w 10..60; t 2..9; u 2..9; n = w*(t+u)",
     "{a} types {w} words a minute and needs {n} words. After {t} minutes, how many more minutes does {a.he} need?",
     ["{a} has typed [w*t=m] words.", "There are [n-m=k] words to go.", "That takes [k/w=r] minutes."]),
    ("average", "e 10..95; x max(1,e-20)..e+20; y max(1,e-20)..e+20; z = 3*e-x-y",
     "{a} scores {x}, {y} and {z} <points in three games|on three tests>. What is {a.his} average score?",
     ["The first two make [x+y=m].", "All three make [m+z=t].", "The average is [t/3=r]."]),
    ("bus", "x 10..80; y 1..40; z 1..40; w 1..40",
     "A <bus|train|boat|tram> starts with {x} people. At the first stop {y} people get off and {z} get on. At the next stop "
     "{w} more get off. How many people are on it now?",
     ["After {y} get off there are [x-y=m] people.", "After {z} get on there are [m+z=n] people.",
      "Then there are [n-w=r] people."]),
    ("train_cars", "c 3..9; s 10..60; e 1..c*s-1; f 2..60",
     "A train has {c} cars with {s} people in each. At a station {e} people leave and {f} come in. How many people are on "
     "the train?",
     ["There are [c*s=m] people at first.", "After some leave there are [m-e=n] people.", "Then there are [n+f=r] people."]),
    ("teams", "k 2..9; t 3..20; x 2..k*t-2; y = k*t-x",
     "There are {x} girls and {y} boys in a <camp|club|school|class>. They make <teams|groups> of {k}. How many are there?",
     ["There are [x+y=n] children.", "They make [n/k=r] groups."]),
    ("field_trip", "k 2..6; s 10..45; x 3..k*s-1; y = k*s-x; p 2..9",
     "{x} children and {y} parents go on a trip. They fill {k} vans with the same number of people, and each person pays "
     "${p}. How many dollars does one van pay?",
     ["There are [x+y=n] people.", "Each van takes [n/k=m] people.", "A van pays [m*p=r] dollars."]),
    # Things, places, measures
    ("seats", "r 4..20; s 5..9; o 5..r*s-1",
     "A <theater|cinema|hall|bus|church> has {r} rows with {s} seats in each row. <If {o} seats are taken,|{o} people sit "
     "down, so> how many seats are empty?",
     ["There are [r*s=m] seats.", "So [m-o=n] seats are empty."]),
    ("orchard", "r 2..9; p 2..9; f 2..9; s 1..min(200,r*p*f-1)",
     "{a} has {r} rows of {p} trees, and each tree gives {f} {fruit}. {a.He} <sells|eats|gives away> {s} {fruit}. How many "
     "{fruit} are left?",
     ["There are [r*p=m] trees.", "They give [m*f=n] {fruit}.", "There are [n-s=t] {fruit} left."]),
    ("bakery", "k 2..9; e 2..20; x 2..9; y 4..24; s = x*y-k*e",
     "A baker bakes {x} trays of {y} {baked} each. <She sells {s} {baked}|{s} {baked} are sold> and the rest are packed in "
     "boxes of {k}. How many boxes are needed?",
     ["There are [x*y=m] {baked}.", "After the sale [m-s=n] {baked} are left.", "They need [n/k=r] boxes."]),
    ("factory", "x 4..40; h 2..9; d 2..7",
     "<A machine makes {x} {it} an hour. It runs {h} hours a day. How many {it} does it make in {d} days?|How many {it} does "
     "a machine make in {d} days if it makes {x} {it} an hour and runs {h} hours a day?>",
     ["In a day it makes [x*h=m] {it}.", "In {d} days it makes [m*d=r] {it}."]),
    ("tank", "r 3..25; t 3..9; l 1..r*t-1; more 5..200; cap = r*t-l+more",
     "A tank holds {cap} <liters|gallons>. It is filled at {r} a minute for {t} minutes, and then {l} are used. How many "
     "more are needed to fill it?",
     ["The tank gets [r*t=m].", "After {l} are used it holds [m-l=n].", "It needs [cap-n=k] more."]),
    ("leak", "x 60..300; r 2..9; t 2..9; y 5..90",
     "A <tank|pool|barrel|pond> holds {x} liters. It leaks {r} liters an hour for {t} hours, and then {y} liters are added. "
     "How many liters does it hold?",
     ["It leaks [r*t=m] liters.", "That leaves [x-m=n] liters.", "Then it holds [n+y=k] liters."]),
    ("fence", "l 5..40; w 3..30; p 2..9",
     "{a} builds a fence around a <garden|yard|field|park> that is {l} meters long and {w} meters wide. The fence costs ${p} "
     "a meter. How much does {a} pay?",
     ["One long and one short side make [l+w=m] meters.", "The fence is [m*2=n] meters.", "It costs [n*p=t] dollars."]),
    ("tiles", "k 2..9; w 2..9; m 1..9; l = k*m; q 2..9",
     "A <floor|wall|room> is {l} feet long and {w} feet wide. One box of tiles covers {k} square feet and costs ${q}. How "
     "much do the tiles cost?",
     ["The area is [l*w=n] square feet.", "That needs [n/k=t] boxes.", "They cost [t*q=r] dollars."]),
    ("legs", "x 2..60; y 2..60",
     "A farm has {x} <cows|sheep|dogs|goats|horses> and {y} <hens|ducks|birds|geese>. The first have 4 legs each and the "
     "others have 2 legs each. How many legs are there?",
     ["The first have [x*4=m] legs.", "The others have [y*2=n] legs.", "In all there are [m+n=t] legs."]),
    ("eggs", "n 1..8; x = 12*n; h 2..9; p 2..9",
     "{a}'s <hens|ducks> lay {x} eggs a day. {a.He} collects them for {h} days and sells them at ${p} a dozen. How many "
     "dollars does {a} get?",
     ["In a day there are [x/12=d] dozen eggs.", "In {h} days there are [d*h=t] dozen.", "{a} gets [t*p=r] dollars."]),
    ("library", "s 3..9; k 5..40; n 5..90; d 1..90",
     "A library has {s} shelves with {k} books on each. It buys {n} new books and <gives away|sells|loses> {d} old ones. How "
     "many books does it have now?",
     ["The shelves hold [s*k=m] books.", "With the new ones it is [m+n=t] books.", "Now there are [t-d=r] books."]),
    ("pizza", "n 2..9; s 4..12; k 2..9; m 1..6",
     "There are {n} <pizzas|cakes|pies> with {s} pieces each. {k} <people|kids|guests> eat {m} pieces each. How many pieces "
     "are left?",
     ["There are [n*s=t] pieces.", "They eat [k*m=e] pieces.", "There are [t-e=r] pieces left."]),
    ("warehouse", "x 2..9; y 10..60; z 5..99; k 2..5",
     "A {place} gets {x} crates with {y} {it} in each, and {z} single {it}. The next day it gets {times:k} as many. How many "
     "{it} come on the next day?",
     ["The crates hold [x*y=m] {it}.", "With the single ones it is [m+z=n] {it}.", "The next day [n*k=t] {it} come."]),
]

# A story is a running total v0, v1, ... changed by EVENTS in random order, story_2 by two of them, in at most MAX_STEPS steps. In
# the text of the i-th event # stands for i and @ for i + 1; {then} is the link to the event before.
STORIES = {"story_2": 2, "story_3": 3, "story_4": 4}
MAX_STEPS = 5
STORY_START = ("v0 10..150", "{a} has {v0} {it}.")
STORY_END = "<How many {it} does {a} have now?|How many {it} does {a} have in the end?>"
EVENTS = [
    ("x# 2..99", "{then} buys {x#} {it}.", ["Now {a} has [v#+x#=v@] {it}."]),
    ("x# 2..99", "{then} finds {x#} {it}.", ["Now {a} has [v#+x#=v@] {it}."]),
    ("x# 1..99", "{then} gives away {x#} {it}.", ["Now {a} has [v#-x#=v@] {it}."]),
    ("x# 1..99", "{then} loses {x#} {it}.", ["Now {a} has [v#-x#=v@] {it}."]),
    ("x# 2..9; y# 2..12", "{then} gets {x#} packs of {y#} {it}.",
     ["The packs hold [x#*y#=p#] {it}.", "Now {a} has [v#+p#=v@] {it}."]),
]
THEN = ("{a.He}", "<Then {a.he}|After that, {a.he}|Next, {a.he}|{a.He}>")   # of the first event, of the others

TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "5 times"}
PARTS = {3: "third", 4: "fourth", 5: "fifth", 6: "sixth"}

# No name of one split occurs in the other.
NAMES = {
    "train": {
        "he": """Tom Ben Sam Max Leo Jack Adam Paul Mark John Luke Ryan Eric Alan Carl Dave Evan Fred Greg Henry Ivan James
            Kevin Liam Noah Oscar Peter Robert Scott Tyler Victor Walter Zach Aaron Brian Connor Daniel Edward Felix George
            Hugo Isaac Jason Kyle Lucas Martin Nathan Owen Patrick Simon Thomas William Omar Raj Diego Pablo Kenji Ahmed
            Yusuf Chen Mateo Andre Boris Dmitri Ravi Tariq""".split(),
        "she": """Anna Beth Cara Dana Emma Fay Gina Hana Iris Jane Kate Lily Mary Nina Olga Pam Rose Sara Tina Uma Vera Wendy
            Zoe Alice Betty Chloe Diana Elena Fiona Grace Helen Irene Julia Karen Laura Megan Natalie Olivia Paula Rachel
            Susan Teresa Ursula Violet Yvonne Amelia Bianca Carmen Priya Mei Aisha Fatima Sofia Lucia Ingrid Naomi Leila
            Yuki Rosa Marta Petra""".split(),
    },
    "test": {
        "he": "Joel Colin Derek Frank Gavin Harold Julian Keith Marcus Neil Philip Trevor Amir Bruno Stefan Hiroshi".split(),
        "she": "Janet Abby Claire Denise Ellen Gloria Holly Joanna Linda Molly Nora Stella Meera Salma Greta Noriko".split(),
    },
}
# Names made of these are added in training, so that a model learns to copy a name it has never seen.
SYLLABLES = """ba be bo da do fa fi ga go ha ja ka ki la le li lo ma me mi mo na ni no pa pe ra re ri ro sa se si ta te ti to
    va vi wa ya za zo bru che cla den gre han hol joa ju mar mol phi ste tre""".split()
ENDS = ["n", "l", "r", "s", "d", "k", "ne", "lin", "", "", ""]

ITEMS = """apples oranges pears plums lemons peaches marbles stickers pencils pens books coins stamps cards buttons beads shells
    stones candies cookies muffins cupcakes donuts balloons toys dolls bottles cans cups plates spoons flowers roses tulips
    seeds nails screws bricks tiles ribbons badges crayons markers notebooks magnets puzzles photos tickets eggs potatoes
    carrots onions tomatoes peppers nuts walnuts""".split()
BOXES = "boxes bags baskets jars packs crates bins cartons sacks trays drawers shelves".split()
GOODS = [("notebook", "notebooks"), ("pen", "pens"), ("shirt", "shirts"), ("hat", "hats"), ("lamp", "lamps"), ("mug", "mugs"),
         ("book", "books"), ("toy", "toys"), ("ball", "balls"), ("scarf", "scarves"), ("plant", "plants"), ("chair", "chairs"),
         ("towel", "towels"), ("candle", "candles"), ("sandwich", "sandwiches"), ("pizza", "pizzas"), ("salad", "salads"),
         ("cake", "cakes")]
DEAR = "bike phone tablet guitar camera jacket desk sofa drum tent watch printer".split()
PLACES = "store shop market mall fair stand".split()
FRUIT = "apples pears plums peaches lemons oranges".split()
BAKED = "cookies muffins cupcakes donuts rolls".split()
FOOD = "flour sugar milk rice oats".split()
