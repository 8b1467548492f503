"""Facts and settings of this machine: device, allocator, caches, processor, memory."""
