"""What may be concluded from scores: intervals, paired tests, power. numpy and scipy only."""
