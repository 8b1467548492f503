"""What the protocols share: bodies, fields, conversations, replies, bytes in and out."""
