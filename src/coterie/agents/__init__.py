"""The client's side: talking to a server, the tool-using loop, terminal chat, tests of servers."""
