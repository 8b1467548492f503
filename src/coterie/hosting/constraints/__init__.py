"""What restricts a reply's tokens: grammars, and a bound on thinking."""
