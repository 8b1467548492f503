"""What the protocols share: bodies, the table of fields, conversations, replies, bytes in and out."""
