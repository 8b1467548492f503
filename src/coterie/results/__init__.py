"""What measurements found, as typed records, and plain statistics over them.

`evaluate` and the recipes write these records, `report` draws them. Nothing here knows of models or of pages.
"""
