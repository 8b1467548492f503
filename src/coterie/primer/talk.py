"""The plain dialogues: (ways to ask, ways to answer). Any change or reordering needs a new `VERSION`."""

Topic = tuple[tuple[str, ...], tuple[str, ...]]

GREETINGS: tuple[Topic, ...] = (
    (
        ("Hello!", "Hi!", "Hi there.", "Hey.", "Hello there!", "Good day.", "hello", "hi"),
        (
            "Hello! How can I help you?",
            "Hi! What would you like to know?",
            "Hello, nice to meet you. How can I help?",
        ),
    ),
    (
        ("Good morning!", "Good morning."),
        ("Good morning! How can I help you today?", "Good morning! What shall we do?"),
    ),
    (
        ("Good evening!", "Good evening."),
        ("Good evening! How can I help you?", "Good evening! What can I do for you?"),
    ),
    (
        ("How are you?", "How are you today?", "How is it going?"),
        ("I am fine, thank you. How can I help you?", "I am doing well, thanks. What would you like to do?"),
    ),
)
FAREWELLS: tuple[Topic, ...] = (
    (
        ("Thank you!", "Thanks.", "Thanks a lot!", "Great, thank you."),
        ("You are welcome!", "You are welcome. Ask me again any time."),
    ),
    (
        ("Goodbye!", "Bye.", "See you later.", "See you."),
        ("Goodbye! Have a nice day.", "Goodbye! See you soon."),
    ),
    (
        ("That was helpful.", "That helps, thanks."),
        ("I am glad that I could help.", "Good! Ask me if you need more."),
    ),
)
TOPICS: tuple[Topic, ...] = (
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
        (
            "I am coterie, a small language model. I can talk, do short sums and explain simple Python.",
            "My name is coterie. I am a small language model, so I know a little and I make mistakes.",
        ),
    ),
    (
        ("Are you a person?", "Are you human?", "Are you real?"),
        (
            "No, I am a computer program: a small language model.",
            "No. I am a language model and not a person.",
        ),
    ),
    (
        ("What can you do?", "What can you help me with?", "How can you help?"),
        (
            "I can do short sums, sort lists, tell small stories and explain simple Python.",
            "I can answer short questions, use tools such as a calculator, and explain lists and loops.",
        ),
    ),
    (
        ("How do you work?", "How do you know things?"),
        (
            "I read text piece by piece and guess the next piece. I learned this from many examples.",
            "I was trained on text. I write one token after the other.",
        ),
    ),
    (
        ("What is a mixture of experts?", "What are experts in a model?"),
        (
            "It is a model with many small parts called experts. "
            "A router picks a few of them for every token.",
            "A model whose router sends each token to a few experts, "
            "so only a part of the model works at a time.",
        ),
    ),
    (
        ("What is a token?", "What are tokens?"),
        (
            "A token is a piece of text, such as a word, a part of a word or a digit.",
            "A small piece of text that a model reads or writes.",
        ),
    ),
    (
        ("What is a list?", "Explain a list in Python.", "What is a list in Python?"),
        (
            "A list holds items in order. For example, [1, 2, 3] has three items and the first is 1.",
            "A list is a row of values in square brackets, such as [4, 5]. You can add items with append.",
        ),
    ),
    (
        ("What is a dict?", "Explain a dict in Python.", "What is a dictionary in Python?"),
        (
            'A dict maps keys to values. For example, {"a": 1} gives 1 for the key "a".',
            'A dict stores pairs of key and value, such as {"cat": 3}. You look up a value by its key.',
        ),
    ),
    (
        ("What is a loop?", "Explain a loop.", "How do I repeat something in Python?"),
        (
            "A loop repeats lines of code. For example, `for x in [1, 2, 3]: print(x)` prints each number.",
            "A loop runs the same code again and again. `for i in range(3): print(i)` prints 0, 1 and 2.",
        ),
    ),
    (
        ("What is a function?", "Explain a function.", "How do I write a function in Python?"),
        (
            "A function is a named piece of code. "
            "For example, `def double(x): return 2 * x` doubles a number.",
            "A function takes values and returns a result. You write it with def and call it by its name.",
        ),
    ),
    (
        ("What is a string?", "Explain a string in Python."),
        (
            'A string is text in quotes, such as "hello".',
            'A string is a row of letters. For example, len("cat") is 3.',
        ),
    ),
    (
        ("What is a variable?", "Explain a variable."),
        (
            "A variable is a name for a value. After `x = 5` the name x means 5.",
            "It is a name that you give to a value, as in `n = 3`.",
        ),
    ),
    (
        ("What does if do?", "Explain if and else.", "What is a condition?"),
        (
            "An if runs code only when its test is true. The else part runs when the test is false.",
            "With if you choose: `if x > 3:` runs its lines only when x is larger than 3.",
        ),
    ),
    (
        ("What is a class?", "Explain a class in Python."),
        (
            "A class describes objects: what they store and what they can do.",
            "A class is a plan for objects. Its functions are called methods.",
        ),
    ),
    (
        ("What is an error?", "What is an exception?", "What should I do when I see an error?"),
        (
            "An error says that something went wrong. Read its last line first: it names the problem.",
            "An exception stops the program unless it is caught with try and except.",
        ),
    ),
    (
        ("What is True in Python?", "What is a boolean?"),
        ("A boolean is True or False.", "It is a value that is either True or False."),
    ),
    (
        ("What does len do?", "How do I count the items of a list?"),
        ("len gives the number of items: len([5, 6]) is 2.", "Use len. For example, len([1, 2, 3]) is 3."),
    ),
    (
        ("How do I sort a list?", "Can Python sort a list?"),
        (
            "Use sorted: sorted([3, 1, 2]) gives [1, 2, 3].",
            "Call sorted on the list, or use its sort method.",
        ),
    ),
    (
        ("What is an even number?", "When is a number even?"),
        (
            "A number is even if you can divide it by two, such as 4 or 10.",
            "An even number ends in 0, 2, 4, 6 or 8.",
        ),
    ),
    (
        ("What is an odd number?", "When is a number odd?"),
        (
            "A number is odd if dividing it by two leaves one, such as 3 or 7.",
            "An odd number ends in 1, 3, 5, 7 or 9.",
        ),
    ),
    (
        ("How many days are in a week?", "Name the days of the week."),
        (
            "There are seven: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
            "A week has seven days: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
        ),
    ),
    (
        ("How many months are in a year?", "How long is a year?"),
        ("A year has twelve months.", "A year has twelve months and about 365 days."),
    ),
    (
        ("What colour is the sky?", "Why is the sky blue?"),
        (
            "The sky is blue on a clear day, because the air scatters blue light.",
            "The sky is blue because the air scatters blue light the most.",
        ),
    ),
    (
        ("What is water?", "What happens when water gets cold?"),
        (
            "Water is a liquid. When it is very cold it becomes ice.",
            "Water turns into ice when it freezes and into steam when it boils.",
        ),
    ),
    (
        ("What is the sun?", "Is the sun a star?"),
        ("The sun is a star. It gives us light and warmth.", "The sun is the star nearest to us."),
    ),
    (
        ("What is the moon?", "Does the moon shine?"),
        (
            "The moon goes around the earth and shines because it reflects the light of the sun.",
            "The moon has no light of its own. It reflects sunlight.",
        ),
    ),
    (
        ("How many legs does a spider have?", "Tell me a fact about spiders."),
        ("A spider has eight legs.", "Spiders have eight legs, and many of them make webs."),
    ),
    (
        ("How many legs does a dog have?", "Tell me a fact about dogs."),
        ("A dog has four legs.", "Dogs have four legs and can smell very well."),
    ),
    (
        ("What do bees make?", "Tell me a fact about bees."),
        ("Bees make honey.", "Bees collect nectar from flowers and make honey."),
    ),
    (
        ("What do cows eat?", "Tell me a fact about cows."),
        ("Cows eat grass and give milk.", "Cows eat grass."),
    ),
    (
        ("Can birds fly?", "Tell me a fact about birds."),
        ("Most birds can fly, but a penguin cannot.", "Most birds fly. They have feathers and lay eggs."),
    ),
    (
        ("I am sad.", "I feel sad today."),
        ("I am sorry to hear that. Do you want to tell me more?", "I am sorry. Would a small story help?"),
    ),
    (("I am happy!", "I had a good day."), ("That is good to hear!", "I am glad. What was the best part?")),
    (
        ("I do not understand.", "Can you explain it more simply?"),
        (
            "That is fine. Tell me which part is hard and I will try again.",
            "Of course. Which word is not clear?",
        ),
    ),
    (
        ("Can you make mistakes?", "Are you always right?"),
        (
            "I do make mistakes. Please check what matters.",
            "I am small and often wrong, so check my answers.",
        ),
    ),
    (
        ("What is the weather today?", "Will it rain tomorrow?"),
        (
            "I cannot know that. I have no view of the world outside this chat.",
            "I do not know: I cannot see the weather.",
        ),
    ),
    (
        ("Tell me a joke.", "Do you know a joke?"),
        (
            "Why was the loop tired? It had been running all day.",
            "What do you call a list without items? Empty-handed.",
        ),
    ),
    (
        ("How can I learn to program?", "I want to learn Python."),
        (
            "Start small: write a few lines, run them, and change one thing at a time.",
            "Begin with variables, lists and loops, and write a little every day.",
        ),
    ),
)
