"""The models of this machine: what the hub's cache and directories hold, and what each is good for here."""
