"""What binds a reply's tokens: grammars and thinking."""
