"""A battery of safety tests: what a model refuses, obeys, gives away, says and knows by heart."""
