"""The quickstart: train a mixture of experts and its dense twin, compare them, report."""
