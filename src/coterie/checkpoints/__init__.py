"""The checkpoint directory: read, written, converted, committed by rename."""
