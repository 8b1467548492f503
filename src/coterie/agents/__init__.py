"""The client's side: one way to talk to a model or a server, the tool-using loop, its sandbox, graders of
servers.
"""
