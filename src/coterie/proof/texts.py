"""The texts of the default probes: written for this purpose, of many kinds, and never to be changed.

A stored record holds token ids, so a change here would not break old records, but no new record could be
compared with them.
"""

# ruff: noqa: E501 - a line break would not change a text, but a slip of the hand would

TEXTS: tuple[str, ...] = (
    "The harbour was quiet that morning. Two boats lay on their sides in the mud, and a boy counted the gulls on the "
    "wall: one, two, three, four. When the fifth one came, he ran home to tell his sister.",
    "Water boils at a lower temperature on a mountain than at the sea, because the air above presses on it less. A "
    "cook who does not know this will take the potatoes off the fire while they are still hard.",
    "17 + 25 = 42\n42 - 9 = 33\n33 * 2 = 66\n66 / 6 = 11\n11 + 89 = 100\n",
    'def largest(values):\n    """The largest of some numbers, or None."""\n    best = None\n    for value in values:\n'
    "        if best is None or value > best:\n            best = value\n    return best\n",
    '{"name": "lamp", "price": 19.5, "tags": ["home", "light"], "stock": {"north": 4, "south": 0}, "sold": false}',
    "Question: A train leaves at 9:40 and arrives at 11:05. How long does it take?\nAnswer: One hour and 25 minutes.\n",
    "SELECT city, COUNT(*) AS people FROM visitors WHERE year >= 2019 GROUP BY city ORDER BY people DESC LIMIT 10;",
    "Der Zug fährt um acht Uhr ab. Wenn es schneit, kommt er später, und dann trinken wir noch einen Tee im Bahnhof.",
    "Le marché ouvre à sept heures. On y trouve des pommes, du fromage et, certains jours, des chaises anciennes.",
    "图书馆每天早上九点开门。学生们坐在窗边看书，有人写字，有人睡着了。",
    "<html>\n  <body>\n    <h1>Opening hours</h1>\n    <p>Monday to Friday, 9 to 17</p>\n  </body>\n</html>\n",
    "Dear Ms Okafor, thank you for your letter of 3 May. The part you asked for (no. 4471-B) is in stock again; we "
    "will send it on Tuesday. With kind regards, the spare parts desk.",
    "user: Can you shorten this?\nassistant: Yes. What should stay in any case?\nuser: The date and the place.\n",
    "Let x be even, so x = 2k. Then x * x = 4k * k, which is a multiple of 4. Hence the square of every even number is "
    "divisible by 4, and the converse holds as well.",
    'for i in $(seq 1 3); do echo "run $i"; ./measure --seed $i >> results.txt || exit 1; done\n',
)
